"""What the analytic head is measured beside: heads trained by gradient on frozen embeddings, and class means."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from learning_core.methods.experience_replay import der_plus_plus
from learning_core.models.weights import read
from learning_core.params import Array
from learning_core.training.fitting import Budget, Loss, Recipe, fit, start_state

STORED_PER_CLASS, ALPHA, BETA = 10, 0.5, 1.0
SHARPNESS = 16.0  # of logits on embeddings of unit length
STEPS_PER_TASK, JOINT_STEPS = 300, 3000

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Embeddings [N, d] of unit length, and labels [N]."""

    x: Tensor
    y: Tensor

    def draw(self, generator: Generator, number: int) -> "Rows":
        chosen = torch.randint(len(self.y), (number,), generator=generator)
        return Rows(self.x[chosen], self.y[chosen])


def rows_of(x: Array, y: Labels) -> Rows:
    return Rows(torch.from_numpy(x), torch.from_numpy(y))


@dataclass(frozen=True, slots=True)
class LinearHead:
    """One trained layer over all classes, zero at first."""

    leaves: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def new(cls, width: int, classes: int) -> "LinearHead":
        weights, bias = (torch.zeros(shape, requires_grad=True) for shape in ((width, classes), (classes,)))
        return cls({"weights": weights, "bias": bias})

    def logits(self, x: Tensor) -> Tensor:
        return SHARPNESS * x @ self.leaves["weights"] + self.leaves["bias"]

    def answers(self, x: Tensor) -> Labels:
        with torch.no_grad():
            return np.asarray(self.logits(x).argmax(dim=1).numpy(), np.int64)

    def learn(self, rows: Rows, recipe: Recipe, penalties: Sequence[Loss] = ()) -> None:
        def loss(generator: Generator) -> Tensor:
            drawn = rows.draw(generator, recipe.batch)
            return nn.functional.cross_entropy(self.logits(drawn.x), drawn.y)

        fit(self.leaves, loss, recipe, start_state(read(self.leaves)), Budget(recipe.steps), penalties=penalties)


def one_after_another(tasks: Sequence[Rows], test: Tensor, classes: int, seed: int, *, replay: bool) -> list[Labels]:
    """The answers to the test queries after each task: naive training, or DER++ with ten stored latents a class."""
    head, stored, answers = LinearHead.new(test.shape[1], classes), list[tuple[Rows, Tensor]](), list[Labels]()
    for task, rows in enumerate(tasks):
        recipe = Recipe(steps=STEPS_PER_TASK, learning_rate=2e-2, seed=seed * len(tasks) + task)
        head.learn(rows, recipe, [_rehearsed(head, stored, recipe.batch)] if stored else ())
        if replay:
            kept = _some_of_each(rows, seed)
            with torch.no_grad():
                stored.append((kept, head.logits(kept.x)))
        answers.append(head.answers(test))
    return answers


def together(tasks: Sequence[Rows], test: Tensor, classes: int, seed: int) -> Labels:
    """The answers of a head trained on all tasks at once: the bound for training on these embeddings."""
    head = LinearHead.new(test.shape[1], classes)
    rows = Rows(torch.cat([task.x for task in tasks]), torch.cat([task.y for task in tasks]))
    head.learn(rows, Recipe(steps=JOINT_STEPS, learning_rate=2e-2, batch=128, seed=seed))
    return head.answers(test)


def by_class_means(tasks: Sequence[Rows], test: Tensor) -> list[Labels]:
    """The class whose mean embedding is nearest, after each task."""
    means, answers = dict[int, Tensor](), list[Labels]()
    for rows in tasks:
        means |= {label: rows.x[rows.y == label].mean(dim=0) for label in _present(rows)}
        names = np.array(list(means), np.int64)
        nearest = torch.cdist(test, torch.stack(list(means.values()))).argmin(dim=1)
        answers.append(names[nearest.numpy()])
    return answers


def _present(rows: Rows) -> list[int]:
    return sorted(set(rows.y.tolist()))


def _some_of_each(rows: Rows, seed: int) -> Rows:
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(rows.y), generator=generator)
    chosen = [order[rows.y[order] == label][:STORED_PER_CLASS] for label in _present(rows)]
    return Rows(rows.x[torch.cat(chosen)], rows.y[torch.cat(chosen)])


def _rehearsed(head: LinearHead, stored: Sequence[tuple[Rows, Tensor]], batch: int) -> Loss:
    """DER++: the paper's two draws. The logits of classes that came later were 0 when a latent was stored."""
    x, y = (torch.cat([getattr(rows, part) for rows, _ in stored]) for part in ("x", "y"))
    logits = torch.cat([kept for _, kept in stored])

    def loss(generator: Generator) -> Tensor:
        one, other = (torch.randint(len(y), (batch,), generator=generator) for _ in range(2))
        dark = der_plus_plus(head.logits(x[one]), logits[one], y[one], ALPHA, 0.0)
        return dark + der_plus_plus(head.logits(x[other]), logits[other], y[other], 0.0, BETA)

    return loss
