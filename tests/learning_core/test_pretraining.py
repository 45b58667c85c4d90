import numpy as np
import pytest
import torch

from learning_core.models.flow_image import FlowImageConfig, generate, new_flow_image
from learning_core.models.muon import Muon, orthogonal
from learning_core.models.pretraining import pretrain, schedule
from learning_core.models.weights import weights_of
from learning_core.samples import Batch

TINY = FlowImageConfig(side=4, patch=2, width=16, depth=1, heads=2, num_conditions=2)


def two_flat_classes(rows: int = 64) -> Batch:
    """Dark images are 0, bright images are 1."""
    conditions = np.arange(rows) % 2
    images = np.where(conditions[:, None, None, None] == 1, 0.8, -0.8) * np.ones((rows, 1, 4, 4))
    return Batch(images.astype(np.float32), conditions.astype(np.int64))


def test_a_pretrained_model_draws_what_it_was_asked_for():
    model = new_flow_image(TINY, 0)
    losses: list[float] = []
    pretrain(model, two_flat_classes(), 120, 2e-2, seed=0, batch=32, on_step=lambda _, loss: losses.append(loss))
    assert len(losses) == 120
    assert np.mean(losses[-20:]) < 0.5 * losses[0]
    noise = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 2
    brightness = generate(model, noise, labels, 8, 1.0).mean(dim=(1, 2, 3))
    assert brightness[labels == 1].min() > 0.3
    assert brightness[labels == 0].max() < -0.3


def test_the_same_seed_gives_the_same_bits():
    weights = []
    for _ in range(2):
        model = new_flow_image(TINY, 0)
        pretrain(model, two_flat_classes(), 5, 2e-2, seed=3, batch=8)
        weights.append(weights_of(model))
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_no_steps_change_nothing():
    model = new_flow_image(TINY, 0)
    before = weights_of(model)
    pretrain(model, two_flat_classes(), 0, 2e-2, seed=0)
    assert all(np.array_equal(before[name], value) for name, value in weights_of(model).items())


def test_there_has_to_be_something_to_learn_from():
    with pytest.raises(ValueError, match="nothing to learn from"):
        pretrain(new_flow_image(TINY, 0), two_flat_classes(0), 5, 2e-2, seed=0)


def test_the_rate_rises_for_a_fifth_and_falls_to_a_twentieth():
    rates = [schedule(step, 50) for step in range(50)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 < rates[-1] < 0.06
    assert schedule(0, 1) == 1.0


def test_orthogonal_changes_lengths_but_not_directions():
    change = orthogonal(torch.tensor([[[3.0, 0.0], [0.0, 0.5]]]))[0]
    assert change[0, 1] == change[1, 0] == 0
    assert 0.6 < change[0, 0] < 1.3
    assert 0.6 < change[1, 1] < 1.3


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 3, 6), (1, 4, 4)])
def test_orthogonal_brings_singular_values_together(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.max() / values.min() < 0.6 * (
        torch.linalg.svdvals(matrices).max() / torch.linalg.svdvals(matrices).min()
    )
    assert values.max() < 1.4


def test_a_zero_gradient_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.zeros(2, 3)
    Muon([weight]).step(0.1)
    assert torch.equal(weight, torch.ones(2, 3))
