import numpy as np
import pytest
import torch

from learning_core.models.flow_image import FlowImageConfig, new_flow_image
from learning_core.models.lora import build_student, read_adapter, start_factors
from learning_core.models.weights import weights_of
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_latents import fit_flow_latents, last_time, points_of_latents

TINY = FlowImageConfig(side=4, patch=2, width=8, depth=1, heads=2, num_conditions=4)
KNOWN = (0, 1)
RECIPE = Recipe(steps=6, batch=8, seed=3)


def student():
    base = new_flow_image(TINY, 0)
    torch.nn.init.normal_(base.out.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return build_student(TINY, weights_of(base), start_factors(TINY, 2, seed=0), 4.0, KNOWN)


def latents(rows=12):
    images = np.random.default_rng(0).normal(size=(rows, 1, 4, 4)).astype(np.float32)
    return Batch(images, (2 + np.arange(rows) % 2).astype(np.int64))


@pytest.mark.parametrize("deviation", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_points_made_of_noised_images_lie_on_the_flow_and_their_velocity_is_right_on_average(deviation, share):
    """All images are the one value 0.7, so the right velocity at x_t is (0.7 - x_t) / (1 - t)."""
    count, image, t = 200_000, 0.7, share * last_time(deviation)
    generator = torch.Generator().manual_seed(0)
    noisy = image + deviation * torch.randn(count, 1, 1, 1, generator=generator)
    x_t, velocity, weight = points_of_latents(noisy, deviation, torch.full((count,), t), generator)
    assert x_t.mean().item() == pytest.approx(t * image, abs=0.02)
    assert x_t.std().item() == pytest.approx(1 - t, rel=0.01)
    error = velocity - (image - x_t) / (1 - t)
    spread = error.std().item()
    assert error.mean().item() == pytest.approx(0.0, abs=4 * spread / count**0.5)
    slope = (error * (x_t - x_t.mean())).mean() / x_t.var()
    assert slope.item() == pytest.approx(0.0, abs=5 * spread / (1 - t) / count**0.5)
    assert weight.min() > 0


def test_without_a_doubt_about_an_image_its_velocity_is_image_less_noise():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 2, 2, generator=generator)
    x_t, velocity, weight = points_of_latents(images, 1e-4, torch.full((8,), 0.3), generator)
    noise = (x_t - 0.3 * images) / 0.7
    torch.testing.assert_close(velocity, images - noise, atol=1e-3, rtol=0)
    assert weight.min() > 0.999


def test_noise_as_large_as_the_image_is_at_half_of_the_flow():
    assert last_time(1.0) == 0.5


def test_a_fit_that_was_stopped_and_resumed_ends_with_the_same_bits():
    whole, losses = fit_flow_latents(
        student(), latents(), 1.0, KNOWN, RECIPE, start_state(read_adapter(student())), 100
    )
    state, pieced = start_state(read_adapter(student())), []
    for steps in (2, 1, 100):
        state, some = fit_flow_latents(student(), latents(), 1.0, KNOWN, RECIPE, state, steps)
        pieced += some
    assert pieced == losses
    assert all(np.array_equal(state.adapter[name], whole.adapter[name]) for name in whole.adapter)


def test_a_model_that_knows_nothing_learns_from_noised_images_alone():
    state, losses = fit_flow_latents(student(), latents(), 0.5, (), RECIPE, start_state(read_adapter(student())), 100)
    assert state.step == len(losses) == 6
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(("rows", "deviation"), [(0, 1.0), (4, 0.0)])
def test_without_images_or_noise_there_is_nothing_to_learn_here(rows, deviation):
    with pytest.raises(ValueError, match="nothing to learn"):
        fit_flow_latents(student(), latents(rows), deviation, KNOWN, RECIPE, start_state(read_adapter(student())), 1)
