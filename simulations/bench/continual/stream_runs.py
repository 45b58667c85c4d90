"""Every method of the core on a stream of tasks, through one `fit`, with the optimizer it is best with.

Where an optimizer normalises gradients, outputs not yet asked for are left out of the loss: otherwise they are pushed
down, at full rate, long before their turn.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from learning_core.memory.curriculum import Curriculum, allowed, rate_factor, stage_at
from learning_core.models.weights import read
from learning_core.training.fitting import Budget, Recipe, fit, start_state
from simulations.bench.continual import stream_methods as methods
from simulations.bench.continual.stream_memory import Net, Past, classes_of, remember
from simulations.bench.continual.stream_methods import BATCH, Method
from simulations.bench.continual.streams import Task, accuracies, joined

EPOCHS = 5
PLAIN_RATE = 0.1
UNSEEN = -30.0  # added to a logit that may not answer yet
STAGE_PIECE = 5  # steps at one rate


@dataclass(frozen=True)
class Choice:
    """A method with the optimizer it is best with and whether digits not yet seen are left out."""

    terms: Method
    rate: float = PLAIN_RATE
    optimizer: str = "sgd"
    masked: bool = False
    joint: bool = False
    staged: bool = False  # easy samples before hard ones, at a gentler rate

    def __str__(self) -> str:
        return f"{self.terms.__name__} {self.rate} {self.optimizer} {self.masked} {self.joint} {self.staged}"


CONDENSED = Choice(methods.condensed_replay, rate=3e-2, optimizer="adam", masked=True)
METHODS = {
    "naive": Choice(methods.naive),
    "EWC": Choice(methods.elastic),
    "LwF": Choice(methods.without_forgetting),
    "A-GEM": Choice(methods.averaged_gem),
    "GEM": Choice(methods.full_gem),
    "replay": Choice(methods.replay),
    "ER-ACE": Choice(methods.asymmetric_replay),
    "DER++": Choice(methods.dark_replay),
    "condensed replay": CONDENSED,
    "condensed replay, curriculum": replace(CONDENSED, staged=True),
    "joint": Choice(methods.naive, rate=3e-2, optimizer="adam", joint=True),
}


def matrix(tasks: Sequence[Task], choice: Choice, seed: int) -> list[list[float]]:
    """R of one method: a row before learning and one after each task (joint: one after everything)."""
    inputs, outputs = tasks[0].x.shape[1], 1 + int(max(task.outputs.max() for task in tasks))
    net, past = Net(inputs, outputs, seed), Past(torch.zeros(0, inputs), torch.zeros(0, outputs))
    rows = [accuracies(net, tasks)]
    for index, task in enumerate([joined(tasks)] if choice.joint else tasks):
        if choice.masked:
            seen = sorted({*classes_of(task), *(label for label, _ in past.condensed)})
            net.mask = torch.full((outputs,), UNSEEN).index_fill(0, torch.tensor(seen), 0.0)
        steps = math.ceil(len(task.y) / BATCH) * EPOCHS
        recipe = Recipe(
            steps=steps,
            batch=BATCH,
            learning_rate=choice.rate,
            optimizer="adam" if choice.optimizer == "adam" else "sgd",
            last_rate=0.1 if choice.optimizer == "adam" else 1.0,
            max_grad_norm=math.inf,
            seed=seed * 100 + index,
        )
        trained = dict(net.layers.named_parameters())
        state = start_state(read(trained))
        for stage_task, stage_recipe, num in stages_of(task, recipe) if choice.staged else [(task, recipe, steps)]:
            terms = choice.terms(net, stage_task, past)
            state, _ = fit(
                trained,
                terms.loss,
                stage_recipe,
                state,
                Budget(num),
                penalties=terms.penalties,
                memory=terms.memory,
                correction=terms.correction,
            )
        remember(past, net, task, index, seed, anchored=choice.terms is methods.elastic)
        rows.append(accuracies(net, tasks))
    return rows


def stages_of(task: Task, recipe: Recipe) -> Iterator[tuple[Task, Recipe, int]]:
    """The curriculum: three stages that admit harder and harder samples, each beginning at half the rate.

    A sample is as hard as it is far from the mean of its class.
    """
    far = torch.zeros(len(task.y))
    for label in classes_of(task):
        ours = task.y == label
        far[ours] = (task.x[ours] - task.x[ours].mean(dim=0)).norm(dim=1)
    curriculum = Curriculum(stages=3, stage_steps=math.ceil(recipe.steps / 3))
    for step in range(0, recipe.steps, STAGE_PIECE):
        admitted = torch.tensor(allowed(far.numpy(), stage_at(step, curriculum), curriculum))
        eased = recipe.learning_rate * rate_factor(step, step, curriculum)
        yield replace(task, x=task.x[admitted], y=task.y[admitted]), replace(recipe, learning_rate=eased), STAGE_PIECE
