import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.errors import ConfigError, Malformed
from learning_core.models.flow_image import (
    EMBED_TIME,
    FlowImageConfig,
    flow_image_of,
    flow_loss,
    flow_points,
    generate,
    join_patches,
    linear_shapes,
    new_flow_image,
    split_patches,
)
from learning_core.models.weights import load_weights, weights_of

TINY = FlowImageConfig(side=4, channels=2, patch=2, width=8, depth=2, heads=2, num_conditions=3)


def awake(seed: int = 0):
    """A model whose last layer is not zero, so that it has something to say."""
    model = new_flow_image(TINY, seed)
    torch.nn.init.normal_(model.out.weight, generator=Generator().manual_seed(seed))
    return model.eval()


def test_the_demo_student_has_194244_weights():
    assert sum(value.size for value in weights_of(new_flow_image(FlowImageConfig(), 0)).values()) == 194_244


@pytest.mark.parametrize(
    "sizes", [{"side": 9}, {"width": 66}, {"width": 3, "heads": 1}, {"depth": 0}, {"num_conditions": 0}]
)
def test_sizes_that_do_not_fit_together_are_refused(sizes):
    with pytest.raises(ConfigError):
        FlowImageConfig(**sizes)


def test_an_untrained_model_stands_still():
    noise = torch.randn(2, 2, 4, 4, generator=Generator().manual_seed(0))
    assert torch.equal(generate(new_flow_image(TINY, 0), noise, torch.tensor([0, 1]), 5, 2.0), noise)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_constant_velocity_is_followed_for_one_unit_of_time(steps):
    model = new_flow_image(TINY, 0)
    torch.nn.init.constant_(model.out.bias, 0.5)
    images = generate(model, torch.zeros(1, 2, 4, 4), torch.tensor([0]), steps, 1.0)
    torch.testing.assert_close(images, torch.full((1, 2, 4, 4), 0.5))


def test_guidance_of_one_is_the_limit_of_guidance_near_one():
    noise, labels = torch.randn(3, 2, 4, 4, generator=Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    one, near, two = (generate(awake(), noise, labels, 4, guidance) for guidance in (1.0, 1.0 + 1e-6, 2.0))
    torch.testing.assert_close(one, near, atol=1e-4, rtol=0)
    assert (one - two).abs().max() > 1e-3


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch():
    noise, labels = torch.randn(3, 2, 4, 4, generator=Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    together = generate(awake(), noise, labels, 3, 1.5)
    torch.testing.assert_close(together[1:2], generate(awake(), noise[1:2], labels[1:2], 3, 1.5), atol=1e-5, rtol=0)


def test_the_label_changes_the_velocity():
    x, t = torch.zeros(2, 2, 4, 4), torch.full((2,), 0.5)
    one, other = awake()(x, t, torch.tensor([0, 1]))
    assert (one - other).abs().max() > 1e-3


def test_following_the_wanted_velocity_from_a_noised_image_leads_to_the_image():
    x = torch.randn(6, 2, 4, 4, generator=Generator().manual_seed(2))
    points = flow_points(x, torch.zeros(6, dtype=torch.long), TINY.null_condition, Generator().manual_seed(3))
    left = (1 - points.t)[:, None, None, None]
    torch.testing.assert_close(points.x + left * points.velocity, x)


def test_about_a_tenth_of_the_samples_loses_its_label():
    x, y = torch.zeros(4000, 1, 1, 1), torch.ones(4000, dtype=torch.long)
    labels = flow_points(x, y, 3, Generator().manual_seed(0)).y
    assert set(labels.tolist()) == {1, 3}
    assert 0.08 < (labels == 3).float().mean() < 0.12


def test_the_loss_of_a_model_that_stands_still_is_the_square_of_the_velocity():
    x = torch.zeros(500, 2, 4, 4)  # image - noise is then -noise, of variance 1
    loss = flow_loss(new_flow_image(TINY, 0), x, torch.zeros(500, dtype=torch.long), Generator().manual_seed(0))
    assert loss.item() == pytest.approx(1.0, abs=0.05)


@given(st.sampled_from([(4, 1, 2), (4, 3, 4), (6, 2, 3), (8, 1, 1)]), st.integers(0, 3))
def test_patches_join_to_the_image_they_were_cut_from(sizes, rows):
    side, channels, patch = sizes
    config = FlowImageConfig(side=side, channels=channels, patch=patch)
    x = torch.arange(rows * channels * side * side, dtype=torch.float32).view(rows, channels, side, side)
    patches = split_patches(x, config)
    assert patches.shape == (rows, config.tokens, config.patch_values)
    assert torch.equal(join_patches(patches, config), x)


def test_a_patch_holds_neighbouring_pixels():
    config = FlowImageConfig(side=4, patch=2)
    assert split_patches(torch.arange(16.0).view(1, 1, 4, 4), config)[0, 0].tolist() == [0, 1, 4, 5]


def test_an_embedding_is_the_mean_of_the_last_tokens_without_a_label():
    model, x = awake(), torch.randn(2, 2, 4, 4, generator=Generator().manual_seed(0))
    condition = model.condition(torch.full((2,), EMBED_TIME), torch.full((2,), TINY.null_condition))
    assert torch.equal(model.embed(x), model.hidden(x, condition).mean(dim=1))
    assert model.embed(x).shape == (2, 8)


def test_equal_seeds_give_equal_weights_and_leave_global_randomness_alone():
    before = torch.get_rng_state()
    one, same, other = (weights_of(new_flow_image(TINY, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_the_listed_linear_layers_are_the_ones_that_are_there():
    model = new_flow_image(TINY, 0)
    found = {path: m.weight.shape for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear_shapes(TINY) == {path: tuple(found[path]) for path in found if path not in ("patchify", "out")}


def test_a_model_is_the_same_from_its_weights():
    x, t, y = torch.ones(1, 2, 4, 4), torch.tensor([0.3]), torch.tensor([1])
    assert torch.equal(flow_image_of(TINY, weights_of(awake()))(x, t, y), awake()(x, t, y))


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_weights_of_another_model_are_refused_and_change_nothing(damage):
    model, weights = new_flow_image(TINY, 0), weights_of(new_flow_image(TINY, 1))
    if damage == "missing":
        del weights["out.bias"]
    elif damage == "extra":
        weights["out.more"] = weights["out.bias"]
    else:
        weights["out.bias"] = weights["out.bias"][:-1]
    before = weights_of(model)
    with pytest.raises(Malformed, match="another model"):
        load_weights(model, weights)
    assert all(np.array_equal(before[name], value) for name, value in weights_of(model).items())
