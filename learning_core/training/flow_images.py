"""How a device fits a flow model: new samples are learned, and the frozen base is asked what is to be kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learning_core.methods.distillation import Velocity, rehearse
from learning_core.models.flow_image import (
    LABEL_DROPOUT,
    FlowImage,
    FlowPoints,
    flow_points,
    noised,
    points_loss,
)
from learning_core.models.lora import LABEL_ROWS, adapter_weights, frozen_base, write_adapter
from learning_core.models.weights import as_tensor
from learning_core.samples import Batch
from learning_core.training.fitting import Budget, FitState, Loss, Recipe, fit

REHEARSAL_SHARE = 0.5  # of a batch; with a quarter, a device's own candidate does not pass its golden set
LABEL_ROW_BOOST = 3.0  # label rows start from nothing and go faster


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model of an earlier day, and the conditions it is asked about."""

    velocity: Velocity
    conditions: tuple[int, ...]


def fit_flow(
    model: FlowImage,
    samples: Batch,
    known: Sequence[int],
    recipe: Recipe,
    state: FitState,
    steps: int,
    earlier: Sequence[Teacher] = (),
) -> tuple[FitState, list[float]]:
    """Advance by at most `steps`; `known` are the conditions the frozen base has learned, `earlier` speak for others.

    Where "no label" is among the known it is rehearsed and not learned, so guidance moves away from what it always did:
    old classes drift by a third as much. The base speaks for all it knows: a later model would teach its own damage.
    The model is left holding the new adapter. Raises Malformed when the state belongs to another model.
    """
    if len(samples) == 0:
        raise ValueError("there is nothing to learn from: the batch of samples is empty")
    write_adapter(model, state.adapter)
    base = (Teacher(frozen_base(model), tuple(known)),) if known else ()
    loss = lesson(model, samples, (*base, *earlier), recipe.batch)
    model.train()
    done = fit(adapter_weights(model), loss, recipe, state, Budget(steps), boosts={LABEL_ROWS: LABEL_ROW_BOOST})
    model.eval()
    return done


def lesson(model: FlowImage, samples: Batch, teachers: Sequence[Teacher], batch: int) -> Loss:
    """A loss whose batch has a head that is to be learned and a tail that asks the teachers what is to be kept.

    Both go through the model at once, which costs a third less than one after the other.
    """
    asked, kept = one_voice(teachers), equally_often(teachers)
    null = model.config.null_condition
    images, labels = as_tensor(samples.features), torch.tensor(samples.conditions)
    head = batch - round(REHEARSAL_SHARE * batch) if kept else batch
    dropout = 0.0 if null in kept else LABEL_DROPOUT

    def loss(generator: Generator) -> Tensor:
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        x, y = images[chosen], labels[chosen]
        points = flow_points(x[:head], y[:head], null, generator, dropout)
        if kept:
            x_t, t, _ = noised(x[head:], generator)
            old, velocity = rehearse(asked, x_t, t, kept, generator)
            keep = FlowPoints(x_t, t, old, velocity)
            points = FlowPoints(*(torch.cat(pair) for pair in zip(points, keep, strict=True)))
        return points_loss(model, points)

    return loss


def equally_often(teachers: Sequence[Teacher]) -> list[int]:
    """Conditions to draw from, some more than once, so that no teacher is asked more often than another.

    What adapters learned needs asking more often than what the frozen base knows, and there is less of it.
    """
    rounds = math.lcm(*(len(teacher.conditions) for teacher in teachers))
    return [c for teacher in teachers for c in teacher.conditions * (rounds // len(teacher.conditions))]


def one_voice(teachers: Sequence[Teacher]) -> Velocity:
    """A velocity that asks about each condition the teacher who has it. Raises ValueError when two have the same."""
    conditions = [condition for teacher in teachers for condition in teacher.conditions]
    if len(set(conditions)) < len(conditions):
        raise ValueError(f"more than one teacher speaks for a condition: {sorted(conditions)}")
    if len(teachers) == 1:
        return teachers[0].velocity

    def velocity(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        answer = torch.empty_like(x)
        for teacher in teachers:
            rows = torch.isin(y, torch.tensor(teacher.conditions))
            answer[rows] = teacher.velocity(x[rows], t[rows], y[rows])
        return answer

    return velocity
