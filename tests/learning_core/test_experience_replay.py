import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.methods.experience_replay import der_plus_plus, er_ace


def drawn(seed, rows=5, classes=6):
    generator = Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def test_two_logits_off_by_one_and_an_even_choice():
    logits, stored, labels = torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.tensor([0])
    found = der_plus_plus(logits, stored, labels, alpha=0.5, beta=2.0)
    assert float(found) == pytest.approx(0.5 * 1.0 + 2.0 * math.log(2))


def test_without_the_logits_it_is_experience_replay_and_without_the_labels_distillation():
    logits, labels = drawn(0)
    assert der_plus_plus(logits, logits + 9, labels, alpha=0.0, beta=1.0) == F.cross_entropy(logits, labels)
    assert der_plus_plus(logits, logits, labels, alpha=1.0, beta=0.0) == 0.0


def test_an_old_class_is_left_out_of_the_choice():
    logits = torch.tensor([[0.0, 0.0, 50.0]])  # sure of class 2, which is none of the batch's
    assert float(er_ace(logits.expand(2, 3), torch.tensor([0, 1]))) == pytest.approx(math.log(2))


@given(st.integers(0, 2**31))
def test_new_samples_never_push_an_absent_class(seed):
    logits, labels = drawn(seed)
    logits.requires_grad_(True)
    (pull,) = torch.autograd.grad(er_ace(logits, labels), logits)
    absent = [each for each in range(logits.shape[1]) if each not in labels]
    assert not pull[:, absent].any()
    assert pull.isfinite().all()


@given(st.integers(0, 2**31))
def test_with_every_class_present_it_is_plain_cross_entropy(seed):
    logits, _ = drawn(seed, rows=6)
    labels = torch.randperm(6, generator=Generator().manual_seed(seed))
    torch.testing.assert_close(er_ace(logits, labels), F.cross_entropy(logits, labels))


def test_an_empty_memory_asks_nothing_and_can_still_be_differentiated():
    weight = torch.ones(3, 2, requires_grad=True)
    nothing, none = torch.zeros(0, 3) @ weight, torch.zeros(0, dtype=torch.int64)
    loss = der_plus_plus(nothing, torch.zeros(0, 2), none, 1.0, 1.0) + er_ace(nothing, none)
    assert loss == 0.0
    assert not torch.autograd.grad(loss, weight)[0].any()
