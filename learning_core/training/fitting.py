"""One local fit of any model: loss + penalties -> gradient -> correction -> step, and it can stop and go on anywhere.

What makes learning continual is passed in, not inherited: `penalties` are further losses (an anchor, a teacher, stored
samples), `memory` are losses on what must not get worse, and `correction` bends the gradient where it would hurt them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from learning_core.models.weights import as_array, as_tensor, read, write
from learning_core.params import Array, Params

Loss = Callable[[Generator], Tensor]
"""One step's scalar; draws its batch from the generator and from nothing else."""
Gradient = Callable[[Generator], tuple[float, Tensor]]
"""One step's loss and gradient [D], for those who must see every sample's own (differential privacy)."""
Correction = Callable[[Tensor, Tensor], Tensor]
"""(gradient [D], gradients of the memory losses [T, D]) -> the gradient to follow [D]."""

ORDERS = ("first", "second")
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.99, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a device learns. After `warm_up` steps the rate falls in a straight line to `last_rate` of it.

    A tenth makes updates a quarter shorter at the same progress.
    """

    steps: int = 60
    batch: int = 32
    learning_rate: float = 1.5e-2
    max_grad_norm: float = 1.0
    last_rate: float = 0.1
    warm_up: int = 0
    optimizer: Literal["adam", "sgd"] = "adam"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What has been spent since some moment of the meter's own."""

    seconds: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one call of `fit` may spend. A step that would break it, judged by the dearest, is not begun."""

    steps: int
    seconds: float = float("inf")
    joules: float = float("inf")


@dataclass(frozen=True, slots=True)
class FitState:
    """Where a fit stands. `moments`: the optimizer's running means, "<name>.first" and "<name>.second"."""

    step: int
    adapter: Params
    moments: Params


def start_state(adapter: Params) -> FitState:
    still = {f"{name}.{order}": np.zeros_like(value) for name, value in adapter.items() for order in ORDERS}
    return FitState(0, dict(adapter), still)


def fit(
    trained: Mapping[str, Tensor],
    loss: Loss | None,
    recipe: Recipe,
    state: FitState,
    budget: Budget,
    *,
    penalties: Sequence[Loss] = (),
    memory: Sequence[Loss] = (),
    correction: Correction | None = None,
    gradient: Gradient | None = None,
    boosts: Mapping[str, float] | None = None,
    meter: Callable[[], Cost] = Cost,
) -> tuple[FitState, list[float]]:
    """Advance within the budget, never beyond `recipe.steps`; the losses are of the steps taken, penalties included.

    `trained`: the leaves to move, by the names of `state.adapter`, which they hold from here on. `boosts`: factors on
    the rate of some of them. `gradient` stands in for `loss` and its penalties. All randomness comes from
    (recipe.seed, step), so a fit that was stopped and resumed ends with the same bits.
    """
    if gradient is not None and (loss is not None or penalties):
        raise ValueError("a gradient stands in for a loss and its penalties; give the one or the others")
    write(trained, state.adapter)
    factors = {name: (boosts or {}).get(name, 1.0) for name in trained}
    rates = torch.cat([torch.full((leaf.numel(),), factors[name]) for name, leaf in trained.items()])
    first, second = (_joined(state.moments, [f"{name}.{order}" for name in trained]) for order in ORDERS)
    step, losses, began = state.step, list[float](), meter()
    dearest, before = Cost(), began
    while step < min(recipe.steps, state.step + budget.steps) and _affords(budget, began, before, dearest):
        generator = step_generator(recipe.seed, step)
        if gradient is not None:
            value, direction = gradient(generator)
        elif loss is not None:
            total = sum((penalty(generator) for penalty in penalties), start=loss(generator))
            value, direction = total.item(), flat_gradient(total, trained.values())
        else:
            raise ValueError("a fit needs a loss or a gradient to follow")
        if correction is not None and memory:
            protected = [flat_gradient(keep(generator), trained.values()) for keep in memory]
            direction = correction(direction, torch.stack(protected))
        direction = direction / (direction.norm() / recipe.max_grad_norm).clamp_min(1.0)
        first = torch.lerp(direction, first, FIRST_DECAY)
        second = torch.lerp(direction.square(), second, SECOND_DECAY)
        step += 1
        way = adam_direction(first, second, step) if recipe.optimizer == "adam" else direction
        _move(trained.values(), _rate(recipe, step - 1) * rates * way)
        losses.append(value)
        now = meter()
        dearest = Cost(
            max(dearest.seconds, now.seconds - before.seconds), max(dearest.joules, now.joules - before.joules)
        )
        before = now
    moments = {
        f"{name}.{order}": value
        for order, joined in zip(ORDERS, (first, second), strict=True)
        for name, value in _split(joined, trained).items()
    }
    return FitState(step, read(trained), moments), losses


def flat_gradient(loss: Tensor, leaves: Collection[Tensor]) -> Tensor:
    """The gradient of a scalar by all leaves, joined: [D]. Leaves that take no part have none, which is zero."""
    parts = torch.autograd.grad(loss, list(leaves), allow_unused=True)
    whole = [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(parts, leaves, strict=True)]
    return torch.cat([part.flatten() for part in whole])


def adam_direction(first: Tensor, second: Tensor, step: int) -> Tensor:
    """The step of unit rate, [D], from the running means after `step` gradients. Adam, arXiv:1412.6980."""
    return (first / (1 - FIRST_DECAY**step)) / ((second / (1 - SECOND_DECAY**step)).sqrt() + EPSILON)


def step_generator(seed: int, step: int) -> Generator:
    """The randomness of one step, whatever ran before it."""
    return Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def _rate(recipe: Recipe, step: int) -> float:
    warm = min(1.0, (step + 1) / recipe.warm_up) if recipe.warm_up else 1.0
    return recipe.learning_rate * warm * (1 - (1 - recipe.last_rate) * step / recipe.steps)


def _affords(budget: Budget, began: Cost, now: Cost, dearest: Cost) -> bool:
    seconds, joules = now.seconds - began.seconds, now.joules - began.joules
    return seconds + dearest.seconds <= budget.seconds and joules + dearest.joules <= budget.joules


def _joined(params: Params, names: Sequence[str]) -> Tensor:
    return torch.cat([as_tensor(params[name]).flatten() for name in names])


def _split(joined: Tensor, like: Mapping[str, Tensor]) -> dict[str, Array]:
    parts = torch.split(joined, [leaf.numel() for leaf in like.values()])
    return {name: as_array(part.view(leaf.shape)) for part, (name, leaf) in zip(parts, like.items(), strict=True)}


@torch.no_grad()
def _move(leaves: Collection[Tensor], change: Tensor) -> None:
    """Subtract a joined change [D] from the leaves, in place."""
    parts = torch.split(change, [leaf.numel() for leaf in leaves])
    for leaf, part in zip(leaves, parts, strict=True):
        leaf.sub_(part.view(leaf.shape))
