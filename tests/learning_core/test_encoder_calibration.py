import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.metrics.calibration import accuracy, best_temperature, expected_calibration_error


def logits_of(*chances):
    return np.log(np.array(chances, np.float64)).astype(np.float32)


def test_eight_in_ten_said_and_one_of_two_right_is_off_by_three_tenths():
    logits, labels = logits_of([0.8, 0.2], [0.8, 0.2]), np.array([0, 1])
    assert accuracy(logits, labels) == 0.5
    assert expected_calibration_error(logits, labels) == pytest.approx(0.3, abs=1e-6)


def test_bins_are_weighed_by_their_number():
    logits = logits_of([0.8, 0.2], [0.4, 0.6], [0.4, 0.6], [0.4, 0.6])
    assert expected_calibration_error(logits, np.array([0, 1, 1, 1])) == pytest.approx(0.2 / 4 + 0.4 * 3 / 4, abs=1e-6)


@settings(max_examples=15)
@given(st.integers(0, 999), st.floats(0.2, 5.0))
def test_the_best_temperature_undoes_what_sharpened_the_logits(seed, sharpened):
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, (300, 5))
    chances = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in chances])
    plain = best_temperature(honest.astype(np.float32), labels)
    assert best_temperature((honest * sharpened).astype(np.float32), labels) == pytest.approx(
        plain * sharpened, rel=1e-3
    )
    assert 0.6 < plain < 1.6


def test_a_class_that_is_never_answered_does_no_harm():
    logits, labels = np.float32([[1, 0, -np.inf], [0, 1, -np.inf]]), np.array([0, 1])
    assert accuracy(logits, labels) == 1
    assert np.isfinite(best_temperature(logits, labels))
    assert expected_calibration_error(logits, labels, temperature=0.01) == pytest.approx(0, abs=1e-6)


def test_no_rows_have_no_accuracy():
    for logits, labels in ((np.zeros((0, 2), np.float32), np.zeros(0, np.int64)), (np.zeros((2, 2)), np.zeros(3))):
        with pytest.raises(ValueError, match="one row of logits"):
            accuracy(logits, labels)
