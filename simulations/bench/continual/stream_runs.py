"""Every method of the core on a stream of tasks, through one `fit`, with the optimizer it is best with.

Where an optimizer normalises gradients, outputs not yet asked for are left out of the loss: otherwise they are pushed
down, at full rate, long before their turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from learning_core.models.weights import read
from learning_core.training.fitting import Budget, Recipe, fit, start_state
from simulations.bench.continual import stream_methods as methods
from simulations.bench.continual.stream_curricula import (
    Entering,
    at_once,
    easy_first,
    easy_first_and_gently,
    tones_first,
    warmed_up,
)
from simulations.bench.continual.stream_memory import Net, Past, classes_of, remember
from simulations.bench.continual.stream_methods import BATCH, Method
from simulations.bench.continual.streams import Task, accuracies, joined

EPOCHS = 5
PLAIN_RATE = 0.1
UNSEEN = -30.0  # added to a logit that may not answer yet


@dataclass(frozen=True)
class Choice:
    """A method with the optimizer it is best with and whether digits not yet seen are left out."""

    terms: Method
    rate: float = PLAIN_RATE
    optimizer: str = "sgd"
    masked: bool = False
    joint: bool = False
    entering: Entering = at_once

    def __str__(self) -> str:
        return f"{self.terms.__name__} {self.rate} {self.optimizer} {self.masked} {self.joint} {self.entering.__name__}"


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
    "joint": Choice(methods.naive, rate=3e-2, optimizer="adam", joint=True),
}
CURRICULA = {
    f"{name}, {words}": replace(choice, entering=entering)
    for name, choice in {"replay": METHODS["replay"], "condensed replay": CONDENSED}.items()
    for words, entering in {
        "easy first": easy_first,
        "tones first": tones_first,
        "warm-up": warmed_up,
        "easy first, gently": easy_first_and_gently,
    }.items()
}


def matrix(tasks: Sequence[Task], choice: Choice, seed: int) -> list[list[float]]:
    """R of one method: a row before learning and one after each task (joint: one after everything)."""
    return matrices(tasks, choice, seed, (tasks,))[0]


def matrices(
    tasks: Sequence[Task], choice: Choice, seed: int, asked: Sequence[Sequence[Task]]
) -> list[list[list[float]]]:
    """R of one and the same learner for each way it is `asked`: tasks that differ in which outputs may answer."""
    inputs, outputs = tasks[0].x.shape[1], 1 + int(max(task.outputs.max() for task in tasks))
    net, past = Net(inputs, outputs, seed), Past(torch.zeros(0, inputs), torch.zeros(0, outputs))
    rows = [[accuracies(net, each)] for each in asked]
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
        for admitted, eased, num in choice.entering(task, recipe):
            terms = choice.terms(net, admitted, past)
            state, _ = fit(
                trained,
                terms.loss,
                eased,
                state,
                Budget(num),
                penalties=terms.penalties,
                memory=terms.memory,
                correction=terms.correction,
            )
        remember(past, net, task, index, seed, anchored=choice.terms is methods.elastic)
        for found, each in zip(rows, asked, strict=True):
            found.append(accuracies(net, each))
    return rows
