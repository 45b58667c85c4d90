import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learning_core.metrics.stages import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    worst_accuracy,
)

R = np.array([[0.1, 0.2, 0.1], [0.9, 0.3, 0.1], [0.95, 0.8, 0.2], [0.7, 0.6, 1.0]])


def test_three_tasks_worked_by_hand():
    assert average_accuracy(R) == pytest.approx((0.7 + 0.6 + 1.0) / 3)
    assert average_incremental_accuracy(R) == pytest.approx((0.9 + 0.875 + 2.3 / 3) / 3)
    assert backward_transfer(R) == pytest.approx((-0.2 - 0.2) / 2)
    assert forgetting(R) == pytest.approx((0.25 + 0.2) / 2)  # from .95, the best, not from .9, the first
    assert forward_transfer(R) == pytest.approx((0.1 + 0.1) / 2)
    assert worst_accuracy(R) == pytest.approx(0.6)


@given(arrays(np.float64, (5, 4), elements=st.floats(0, 1)))
def test_forgetting_is_at_least_the_loss_against_when_a_task_was_learned(r):
    assert forgetting(r) >= -backward_transfer(r) - 1e-12
    assert worst_accuracy(r) <= average_accuracy(r) + 1e-12


def test_a_single_task_cannot_be_forgotten():
    single = np.array([[0.1], [0.9]])
    assert (forgetting(single), backward_transfer(single), forward_transfer(single)) == (0, 0, 0)
    assert average_accuracy(single) == average_incremental_accuracy(single) == worst_accuracy(single) == 0.9


@pytest.mark.parametrize("odd", [np.zeros((0, 0)), np.zeros((3, 3)), np.zeros(4), np.full((2, 1), np.nan)])
def test_a_matrix_of_another_shape_is_refused(odd):
    with pytest.raises(ValueError, match=r"\[T \+ 1, T\]"):
        forgetting(odd)
