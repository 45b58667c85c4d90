import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.methods.orthogonal import penalty


def test_the_overlap_is_the_sum_of_absolute_products_of_rows():
    current, past = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0, 0.0, 9.0], [0.0, -1.0, 0.0]])
    assert penalty({"a": current}, [{"a": past}]) == 3.0 + 2.0
    assert penalty({"a": current, "b": current}, [{"a": past, "b": past}] * 2) == 20.0


@given(st.integers(0, 2**31))
def test_only_rows_at_right_angles_are_free_whatever_the_ranks(seed):
    basis = torch.linalg.qr(torch.randn(6, 6, generator=Generator().manual_seed(seed))).Q
    assert penalty({"a": basis[:2]}, [{"a": basis[2:5]}]) < 1e-4
    assert penalty({"a": basis[:2] + 0.1 * basis[2]}, [{"a": basis[2:5]}]) > 0.1


def test_the_past_is_not_moved():
    current, past = (torch.ones(1, 3, requires_grad=True) for _ in "ab")
    pull = torch.autograd.grad(penalty({"a": current}, [{"a": past}]), (current, past), allow_unused=True)
    assert pull[0] is not None
    assert pull[1] is None


def test_the_first_task_overlaps_with_nothing():
    assert penalty({"a": torch.ones(2, 3)}, []) == 0.0
    assert penalty({"a": torch.zeros(2, 3)}, [{"a": torch.ones(2, 3)}]) == 0.0
