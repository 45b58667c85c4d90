"""One local fit: new samples are learned, old conditions are kept, and it can stop and go on at any step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from learning_core.methods.distillation import rehearse
from learning_core.models.flow_image import FlowImage, FlowPoints, flow_points, noised, points_loss
from learning_core.models.lora import LABEL_ROWS, adapter_weights, frozen_base, read_adapter, write_adapter
from learning_core.models.weights import as_array, as_tensor
from learning_core.params import Array, Params
from learning_core.samples import Batch

ORDERS = ("first", "second")
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.99, 1e-8
LAST_RATE = 0.1  # share of the learning rate that is left at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a device learns: a share of each batch rehearses old conditions; label rows go faster.

    The rate falls in a straight line to a tenth, which makes updates a quarter shorter at the same progress. With half
    of each batch rehearsed a device's own candidate passes its golden set; with a quarter, only the fleet's mean does.
    """

    steps: int = 60
    batch: int = 32
    rehearsal_share: float = 0.5
    learning_rate: float = 1.5e-2
    label_row_boost: float = 3.0
    max_grad_norm: float = 1.0
    seed: int = 0


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
    model: FlowImage, samples: Batch, known: Sequence[int], recipe: Recipe, state: FitState, steps: int
) -> tuple[FitState, list[float]]:
    """Advance by at most `steps`, never beyond `recipe.steps`; the losses are of the steps taken.

    All randomness comes from (recipe.seed, step), so a fit that was stopped and resumed ends with the same bits.
    `known` are the conditions the frozen base has learned; the model is left holding the new adapter.
    """
    if len(samples) == 0:
        raise ValueError("there is nothing to learn from: the batch of samples is empty")
    write_adapter(model, state.adapter)
    frozen = frozen_base(model) if known else None
    trained = adapter_weights(model)
    rates = torch.cat([torch.full((value.numel(),), _rate(name, recipe)) for name, value in trained.items()])
    first, second = (_joined(state.moments, [f"{name}.{order}" for name in trained]) for order in ORDERS)
    images, labels = as_tensor(samples.features), torch.tensor(samples.conditions)
    last = min(recipe.steps, state.step + steps)
    losses: list[float] = []
    model.train()
    for step in range(state.step, last):
        generator = _generator(recipe.seed, step)
        chosen = torch.randint(len(labels), (recipe.batch,), generator=generator)
        points = _lesson(model, frozen, images[chosen], labels[chosen], known, recipe.rehearsal_share, generator)
        loss = points_loss(model, points)
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(trained.values()))])
        gradient = gradient * (recipe.max_grad_norm / gradient.norm().clamp_min(recipe.max_grad_norm))
        first = torch.lerp(gradient, first, FIRST_DECAY)
        second = torch.lerp(gradient.square(), second, SECOND_DECAY)
        falling = 1 - (1 - LAST_RATE) * step / recipe.steps
        _move(trained.values(), falling * rates * adam_direction(first, second, step + 1))
        losses.append(loss.item())
    model.eval()
    moments = {
        f"{name}.{order}": value
        for order, joined in zip(ORDERS, (first, second), strict=True)
        for name, value in _split(joined, trained).items()
    }
    return FitState(max(last, state.step), read_adapter(model), moments), losses


def adam_direction(first: Tensor, second: Tensor, step: int) -> Tensor:
    """The step of unit rate, [D], from the running means after `step` gradients. Adam, arXiv:1412.6980."""
    return (first / (1 - FIRST_DECAY**step)) / ((second / (1 - SECOND_DECAY**step)).sqrt() + EPSILON)


def _lesson(
    model: FlowImage,
    frozen: FlowImage | None,
    x: Tensor,
    y: Tensor,
    known: Sequence[int],
    rehearsal_share: float,
    generator: Generator,
) -> FlowPoints:
    """One batch: its head is to be learned, about its tail the frozen base is asked what is to be kept."""
    head = len(x) if frozen is None else len(x) - round(rehearsal_share * len(x))
    learn = flow_points(x[:head], y[:head], model.config.null_condition, generator)
    if frozen is None:
        return learn
    x_t, t, _ = noised(x[head:], generator)
    labels, velocity = rehearse(frozen, x_t, t, known, generator)
    keep = FlowPoints(x_t, t, labels, velocity)
    return FlowPoints(*(torch.cat(pair) for pair in zip(learn, keep, strict=True)))


def _rate(name: str, recipe: Recipe) -> float:
    return recipe.learning_rate * (recipe.label_row_boost if name == LABEL_ROWS else 1.0)


def _generator(seed: int, step: int) -> Generator:
    return Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def _joined(params: Params, names: Sequence[str]) -> Tensor:
    return torch.cat([as_tensor(params[name]).flatten() for name in names])


def _split(joined: Tensor, like: Mapping[str, Tensor]) -> dict[str, Array]:
    parts = torch.split(joined, [value.numel() for value in like.values()])
    return {name: as_array(part.view(value.shape)) for part, (name, value) in zip(parts, like.items(), strict=True)}


@torch.no_grad()
def _move(weights: Collection[Tensor], change: Tensor) -> None:
    """Subtract a joined change [D] from the weights, in place."""
    parts = torch.split(change, [weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.sub_(part.view(weight.shape))
