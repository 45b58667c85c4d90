"""What each method of the core adds to a step on a stream of tasks, with an MLP and a small memory.

A method is a choice of loss, penalties, memory losses and correction for one `fit`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from torch import Generator, Tensor

from learning_core.methods import ewc, gem
from learning_core.methods.condensed_replay import condense, draw
from learning_core.methods.distillation import lwf
from learning_core.methods.experience_replay import der_plus_plus, er_ace
from learning_core.training.fitting import Correction, Loss
from simulations.bench.continual.stream_memory import VECTORS, Net, Past, classes_of
from simulations.bench.continual.streams import Task

BATCH, REHEARSED = 16, 64
DRAWN = 256  # condensed samples a step: they cost no memory, and 128 of them lose half a point
EWC_WEIGHT = 0.02  # of a Fisher with mean 1; ten times as much diverges at the plain rate


@dataclass(frozen=True)
class Terms:
    """What one task's fit is given."""

    loss: Loss
    penalties: Sequence[Loss] = ()
    memory: Sequence[Loss] = ()
    correction: Correction | None = None


Method = Callable[[Net, Task, Past], Terms]


def drawn(task: Task, generator: Generator) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(len(task.y), (BATCH,), generator=generator)
    return task.x[chosen], task.y[chosen]


def stored(past: Past, num: int, generator: Generator, of: int | None = None) -> Tensor:
    """Indices of stored samples, of one task or of all."""
    among = torch.arange(len(past.y)) if of is None else (past.task == of).nonzero().flatten()
    return among[torch.randint(len(among), (num,), generator=generator)]


def naive(net: Net, task: Task, past: Past) -> Terms:  # noqa: ARG001 - every method has the same signature
    def loss(generator: Generator) -> Tensor:
        x, y = drawn(task, generator)
        return F.cross_entropy(net(x), y)

    return Terms(loss)


def elastic(net: Net, task: Task, past: Past) -> Terms:
    trained = dict(net.layers.named_parameters())
    penalty = [lambda _: EWC_WEIGHT * ewc.penalty(trained, past.anchors)] if past.anchors else []
    return replace(naive(net, task, past), penalties=penalty)


def without_forgetting(net: Net, task: Task, past: Past) -> Terms:
    teacher = past.model

    def penalty(generator: Generator) -> Tensor:
        assert teacher is not None
        x, _ = drawn(task, generator)
        with torch.no_grad():
            frozen = teacher(x)
        return lwf(net(x), frozen)

    return replace(naive(net, task, past), penalties=[penalty] if teacher else [])


def protected(net: Net, task: Task, past: Past, correction: Correction, of: Sequence[int | None]) -> Terms:
    def keep(which: int | None) -> Loss:
        def loss(generator: Generator) -> Tensor:
            chosen = stored(past, REHEARSED, generator, which)
            return F.cross_entropy(net(past.x[chosen]), past.y[chosen])

        return loss

    return replace(naive(net, task, past), memory=[keep(which) for which in of], correction=correction)


def averaged_gem(net: Net, task: Task, past: Past) -> Terms:
    return protected(net, task, past, gem.project, [None] if len(past.y) else [])


def full_gem(net: Net, task: Task, past: Past) -> Terms:
    def with_margin(gradient: Tensor, memory: Tensor) -> Tensor:
        return gem.project_all(gradient, memory, margin=0.5)

    return protected(net, task, past, with_margin, sorted(set(past.task.tolist())))


def replay(net: Net, task: Task, past: Past) -> Terms:
    def penalty(generator: Generator) -> Tensor:
        chosen = stored(past, REHEARSED, generator)
        return F.cross_entropy(net(past.x[chosen]), past.y[chosen])

    return replace(naive(net, task, past), penalties=[penalty] if len(past.y) else [])


def dark_replay(net: Net, task: Task, past: Past) -> Terms:
    def penalty(generator: Generator) -> Tensor:
        dark, plain = (stored(past, REHEARSED, generator) for _ in range(2))
        told = der_plus_plus(net.layers(past.x[dark]), past.logits[dark], past.y[dark], 0.5, 0.0)
        return told + der_plus_plus(net.layers(past.x[plain]), past.logits[plain], past.y[plain], 0.0, 1.0)

    return replace(naive(net, task, past), penalties=[penalty] if len(past.y) else [])


def asymmetric_replay(net: Net, task: Task, past: Past) -> Terms:
    """New samples compete among themselves; with the old they do as rehearsed ones, each class as often."""
    share = len(classes_of(task)) / (len(classes_of(task)) + len(past.condensed))

    def loss(generator: Generator) -> Tensor:
        x, y = drawn(task, generator)
        return er_ace(net(x), y)

    def penalty(generator: Generator) -> Tensor:
        old = stored(past, REHEARSED, generator)
        new = torch.randint(len(task.y), (round(REHEARSED * share / (1 - share)),), generator=generator)
        return F.cross_entropy(net(torch.cat((past.x[old], task.x[new]))), torch.cat((past.y[old], task.y[new])))

    return Terms(loss, penalties=[penalty] if len(past.y) else [])


def condensed_replay(net: Net, task: Task, past: Past) -> Terms:
    """Every class, also of this task, is drawn from its condensed form; real samples are half of what is new."""
    new = [(c, condense(task.x[task.y == c], VECTORS)) for c in classes_of(task)]
    labels = torch.tensor([label for label, _ in past.condensed + new])
    classes = [each for _, each in past.condensed + new]
    is_new = torch.arange(len(classes)) >= len(past.condensed)
    share = len(new) / len(classes)

    def loss(generator: Generator) -> Tensor:
        x, y = drawn(task, generator)
        rehearsed, which = draw(classes, DRAWN, generator)
        logits = net(torch.cat((x, rehearsed.clamp(task.x.min(), task.x.max()))))
        each = F.cross_entropy(logits[len(y) :], labels[which], reduction="none")
        weights = torch.where(is_new[which], 0.5, 1.0)
        real = F.cross_entropy(logits[: len(y)], y)
        return (0.5 * share * real + (weights * each).mean()) / (0.5 * share + float(weights.mean()))

    return Terms(loss)
