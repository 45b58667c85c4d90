import torch
from torch import Generator

from learning_core.methods.distillation import rehearse


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
