import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.methods.distillation import kl_to_frozen, lwf, rehearse


def shifted_by_label(x, t, y):
    return x + t[:, None, None, None] + 10.0 * y[:, None, None, None]


def test_what_is_kept_is_the_frozen_velocity_under_an_old_label():
    x, t = torch.zeros(3, 1, 2, 2), torch.tensor([0.1, 0.2, 0.3])
    labels, velocity = rehearse(shifted_by_label, x, t, [4], Generator().manual_seed(0))
    assert labels.tolist() == [4, 4, 4]
    torch.testing.assert_close(velocity[:, 0, 0, 0], torch.tensor([40.1, 40.2, 40.3]))


def test_only_known_labels_are_asked_and_all_of_them():
    x, t = torch.zeros(200, 1, 1, 1), torch.zeros(200)
    labels, _ = rehearse(shifted_by_label, x, t, [1, 3, 7], Generator().manual_seed(0))
    assert set(labels.tolist()) == {1, 3, 7}


def test_the_frozen_model_is_asked_without_building_a_graph():
    model = torch.nn.Linear(1, 1)
    _, velocity = rehearse(lambda x, t, y: model(x), torch.ones(2, 1), torch.zeros(2), [0], Generator())
    assert not velocity.requires_grad


def test_no_images_give_an_empty_rehearsal():
    labels, velocity = rehearse(shifted_by_label, torch.zeros(0, 1, 2, 2), torch.zeros(0), [0], Generator())
    assert len(labels) == len(velocity) == 0


def test_a_model_that_answers_as_before_pays_nothing_and_an_even_one_the_log_of_its_choices():
    sure = torch.tensor([[0.0, -1e4, -1e4]])
    assert kl_to_frozen(torch.zeros(1, 3), torch.zeros(1, 3)) == 0.0
    torch.testing.assert_close(kl_to_frozen(torch.zeros(1, 3), sure), torch.tensor(3.0).log())


def test_lwf_softens_both_answers_and_scales_the_loss_back():
    new, old = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = torch.sigmoid(torch.tensor(2.0))  # of 4 at temperature 2
    by_hand = 4 * (0.5 * (0.5 / p).log() + 0.5 * (0.5 / (1 - p)).log())
    torch.testing.assert_close(lwf(new, old, temperature=2.0), by_hand)


@given(st.integers(0, 2**31), st.floats(0.5, 4.0))
def test_distillation_is_never_negative_and_moves_only_the_student(seed, temperature):
    new, old = torch.randn(2, 3, 5, generator=Generator().manual_seed(seed)).requires_grad_(True)
    loss = lwf(new, old, temperature)
    assert loss >= -1e-6
    _, pull = torch.autograd.grad(loss, (new, old), allow_unused=True)
    assert pull is None or not pull.any()


def test_padding_does_not_count():
    logits, frozen = torch.tensor([[[0.0, 1.0], [9.0, 0.0]]]), torch.zeros(1, 2, 2)
    kept = torch.tensor([[True, False]])
    assert kl_to_frozen(logits, frozen, kept) == kl_to_frozen(logits[:, :1], frozen[:, :1])
    assert kl_to_frozen(logits, frozen, torch.zeros(1, 2, dtype=torch.bool)) == 0.0


def test_no_samples_are_distilled_to_nothing():
    assert lwf(torch.zeros(0, 3), torch.zeros(0, 3)) == 0.0
