from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.methods.gem import project
from learning_core.training.fitting import Budget, Cost, Recipe, fit, flat_gradient, read, start_state

SGD = Recipe(steps=10, learning_rate=0.1, optimizer="sgd", last_rate=1.0, max_grad_norm=float("inf"))


def leaves(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, requires_grad=True)}


def square(trained, centre=0.0):
    return lambda _: (trained["w"] - centre).square().sum() / 2


def test_one_step_of_plain_descent_by_hand():
    trained = leaves(1.0, -2.0)
    state, losses = fit(trained, square(trained), SGD, start_state(read(trained)), Budget(1))
    assert losses == [2.5]
    np.testing.assert_allclose(state.adapter["w"], [0.9, -1.8], rtol=1e-6)
    np.testing.assert_array_equal(trained["w"].detach(), state.adapter["w"])


def test_penalties_are_added_to_the_loss():
    trained = leaves(1.0)
    pulls = [square(trained, 3.0), square(trained, -3.0)]
    state, losses = fit(trained, square(trained), SGD, start_state(read(trained)), Budget(1), penalties=pulls)
    assert losses == [0.5 + 2.0 + 8.0]
    np.testing.assert_allclose(state.adapter["w"], [1 - 0.1 * 3], rtol=1e-6)


def test_a_correction_sees_the_gradients_of_the_memory_losses():
    trained = leaves(0.0, 0.0)
    loss = lambda _: (trained["w"] * torch.tensor([1.0, 1.0])).sum()  # noqa: E731 - wants both to fall
    keep = lambda _: -trained["w"][0]  # noqa: E731 - memory wants the first to rise
    state, _ = fit(trained, loss, SGD, start_state(read(trained)), Budget(1), memory=[keep], correction=project)
    np.testing.assert_allclose(state.adapter["w"], [0.0, -0.1], rtol=1e-6)


def test_boosted_leaves_go_further():
    trained = {"slow": torch.ones(1, requires_grad=True), "fast": torch.ones(1, requires_grad=True)}
    loss = lambda _: trained["slow"].sum() + trained["fast"].sum()  # noqa: E731
    state, _ = fit(trained, loss, SGD, start_state(read(trained)), Budget(1), boosts={"fast": 3.0})
    np.testing.assert_allclose([state.adapter["slow"][0], state.adapter["fast"][0]], [0.9, 0.7], rtol=1e-6)


def test_the_rate_warms_up_and_falls():
    trained = leaves(0.0)
    places = []
    recipe = replace(SGD, steps=4, warm_up=2, last_rate=0.0)
    state = start_state(read(trained))
    for _ in range(4):
        state, _ = fit(trained, lambda _: trained["w"].sum(), recipe, state, Budget(1))
        places.append(float(state.adapter["w"][0]))
    np.testing.assert_allclose(-np.diff([0.0, *places]), [0.1 * f for f in (0.5, 0.75, 0.5, 0.25)], rtol=1e-5)


def test_no_step_is_begun_that_the_budget_may_not_cover():
    trained = leaves(1.0)
    clock = count()  # every look at the meter is a second later
    meter = lambda: Cost(seconds=float(next(clock)), joules=0.0)  # noqa: E731
    state, losses = fit(trained, square(trained), SGD, start_state(read(trained)), Budget(10, seconds=3.5), meter=meter)
    assert state.step == len(losses) == 3


def test_a_dear_step_counts_for_all_that_follow():
    trained = leaves(1.0)
    joules = iter([0.0, 6.0, 7.0, 8.0, 9.0])
    meter = lambda: Cost(joules=next(joules))  # noqa: E731
    state, _ = fit(trained, square(trained), SGD, start_state(read(trained)), Budget(10, joules=11.0), meter=meter)
    assert state.step == 1  # the dearest so far took 6, and 6 + 6 is more than 11


@settings(max_examples=5)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_stopping_anywhere_changes_no_bit(pieces):
    def noisy(trained):
        return lambda generator: (trained["w"] - torch.randn(3, generator=generator)).square().sum()

    recipe = Recipe(steps=8, learning_rate=0.1, seed=5)
    trained = leaves(1.0, 2.0, 3.0)
    whole, losses = fit(trained, noisy(trained), recipe, start_state(read(trained)), Budget(8))
    state, pieced = start_state({"w": np.array([1, 2, 3], np.float32)}), []
    for steps in [*pieces, 8]:
        again = leaves(0.0, 0.0, 0.0)
        state, some = fit(again, noisy(again), recipe, state, Budget(steps))
        pieced += some
    assert pieced == losses
    assert all(np.array_equal(state.adapter[name], whole.adapter[name]) for name in whole.adapter)
    assert all(np.array_equal(state.moments[name], whole.moments[name]) for name in whole.moments)


def test_a_leaf_that_takes_no_part_has_no_gradient():
    used, idle = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    np.testing.assert_array_equal(flat_gradient(used.sum(), [used, idle]), [1, 1, 0, 0, 0])


def test_a_gradient_of_ones_own_stands_in_for_the_loss():
    trained = leaves(1.0)
    state, losses = fit(
        trained, None, SGD, start_state(read(trained)), Budget(1), gradient=lambda _: (7.0, torch.tensor([2.0]))
    )
    assert losses == [7.0]
    np.testing.assert_allclose(state.adapter["w"], [0.8], rtol=1e-6)


def test_a_gradient_of_ones_own_leaves_no_penalty_out_in_silence():
    start = start_state({"w": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match="stands in"):
        fit(
            leaves(1.0),
            None,
            SGD,
            start,
            Budget(1),
            gradient=lambda _: (0.0, torch.ones(1)),
            penalties=[lambda _: torch.ones(())],
        )


def test_there_has_to_be_something_to_follow():
    with pytest.raises(ValueError, match="a loss or a gradient"):
        fit(leaves(1.0), None, SGD, start_state({"w": np.ones(1, np.float32)}), Budget(1))
