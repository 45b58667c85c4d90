from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.models.flow_image import FlowImage, FlowImageConfig, new_flow_image
from learning_core.models.lora import build_student, frozen_base, merge, read_adapter, start_factors
from learning_core.models.weights import weights_of
from learning_core.samples import Batch
from learning_core.training.fitting import FitState, Recipe, adam_direction, start_state
from learning_core.training.flow_images import fit_flow

TINY = FlowImageConfig(side=4, patch=2, width=8, depth=1, heads=2, num_conditions=4)
KNOWN = (0, 1)
RECIPE = Recipe(steps=6, batch=8, seed=3)


def student() -> FlowImage:
    base = new_flow_image(TINY, 0)
    torch.nn.init.normal_(base.out.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return build_student(TINY, weights_of(base), start_factors(TINY, 2, seed=0), 4.0, KNOWN)


def news(rows: int = 12) -> Batch:
    images = np.random.default_rng(0).normal(size=(rows, 1, 4, 4)).astype(np.float32)
    return Batch(images, (2 + np.arange(rows) % 2).astype(np.int64))


def at_start(model: FlowImage) -> FitState:
    return start_state(read_adapter(model))


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=6)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_a_fit_that_was_stopped_and_resumed_ends_with_the_same_bits(pieces):
    whole_model = student()
    whole, losses = fit_flow(whole_model, news(), KNOWN, RECIPE, at_start(whole_model), 100)
    state, pieced = at_start(student()), []
    for steps in [*pieces, 100]:  # each time in a model of its own, as after a kill
        state, some = fit_flow(student(), news(), KNOWN, RECIPE, state, steps)
        pieced += some
    assert state.step == whole.step == RECIPE.steps
    assert pieced == losses
    assert same(state.adapter, whole.adapter)
    assert same(state.moments, whole.moments)


def test_a_finished_fit_does_nothing_more():
    model = student()
    done, _ = fit_flow(model, news(), KNOWN, RECIPE, at_start(model), 100)
    again, losses = fit_flow(model, news(), KNOWN, RECIPE, done, 100)
    assert losses == []
    assert again.step == done.step
    assert same(again.adapter, done.adapter)


def test_no_steps_leave_the_state_as_it_is():
    state, losses = fit_flow(student(), news(), KNOWN, RECIPE, at_start(student()), 0)
    assert (state.step, losses) == (0, [])
    assert same(state.adapter, at_start(student()).adapter)


def test_the_first_step_is_as_long_as_the_rate_and_three_times_that_for_label_rows():
    model = student()
    state, _ = fit_flow(model, news(), KNOWN, replace(RECIPE, learning_rate=0.01), at_start(model), 1)
    assert np.abs(state.adapter["blocks.0.fc2.lora_B"]).max() == pytest.approx(0.01, rel=1e-3)
    assert np.abs(state.adapter["label_rows"]).max() == pytest.approx(0.03, rel=1e-3)


def test_seeds_decide_everything():
    recipes = [replace(RECIPE, seed=seed) for seed in (1, 1, 2)]
    one, again, other = (fit_flow(student(), news(), KNOWN, it, at_start(student()), 3)[0].adapter for it in recipes)
    assert same(one, again)
    assert not same(one, other)


def test_the_model_is_left_holding_the_adapter_and_its_base_is_untouched():
    model = student()
    before = weights_of(frozen_base(model))
    state, _ = fit_flow(model, news(), KNOWN, RECIPE, at_start(model), 100)
    assert same(read_adapter(model), state.adapter)
    assert same(weights_of(frozen_base(model)), before)
    assert not same(merge(model), before)


def test_a_fit_learns():
    model = student()
    _, losses = fit_flow(model, news(), KNOWN, replace(RECIPE, steps=100, batch=32), at_start(model), 100)
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:5])


def test_rehearsal_keeps_what_the_base_says_about_old_conditions():
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 1, 4, 4)).astype(np.float32))
    t, y = torch.linspace(0.05, 0.95, 64), torch.arange(64) % 2
    drift = {}
    for known in (KNOWN, ()):
        model = student()
        fit_flow(model, news(), known, replace(RECIPE, steps=100, batch=32), at_start(model), 100)
        drift[known] = (model(x, t, y) - frozen_base(model)(x, t, y)).square().mean().item()
    assert drift[KNOWN] < 0.5 * drift[()]


def test_there_has_to_be_something_to_learn_from():
    with pytest.raises(ValueError, match="nothing to learn from"):
        fit_flow(student(), news(0), KNOWN, RECIPE, at_start(student()), 1)


def test_one_sample_is_enough():
    state, losses = fit_flow(student(), news(1), KNOWN, RECIPE, at_start(student()), 2)
    assert len(losses) == 2
    assert all(np.isfinite(value).all() for value in state.adapter.values())


def test_adam_goes_one_unit_against_a_steady_gradient_whatever_its_size():
    gradient = torch.tensor([4.0, -0.01, 0.0])
    direction = adam_direction(0.1 * gradient, 0.01 * gradient.square(), step=1)
    torch.testing.assert_close(direction, torch.tensor([1.0, -1.0, 0.0]), atol=1e-4, rtol=0)
