"""How new data may enter a fit: in what order and at what rate. Each gives pieces of a task with their recipe.

Every piece is the samples that may be drawn, the recipe, and for how many steps they hold; together they are the fit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from learning_core.memory.curriculum import Curriculum, allowed, coarse, rate_factor, stage_at
from learning_core.params import Array
from learning_core.training.fitting import Recipe
from simulations.bench.continual.stream_memory import classes_of
from simulations.bench.continual.streams import Task

STAGES = 3
STAGE_PIECE = 5  # steps at one rate
SIDE = 8  # of the digits

Pieces = Iterator[tuple[Task, Recipe, int]]
Entering = Callable[[Task, Recipe], Pieces]


def at_once(task: Task, recipe: Recipe) -> Pieces:
    yield task, recipe, recipe.steps


def easy_first(task: Task, recipe: Recipe) -> Pieces:
    """Three stages that admit harder and harder samples: those farther from the mean of their class."""
    curriculum, far = _curriculum(recipe), _difficulty(task)
    for stage in range(STAGES):
        yield _admitted(task, far, stage, curriculum), recipe, curriculum.stage_steps


def tones_first(task: Task, recipe: Recipe) -> Pieces:
    """Three stages of one and the same samples: their tones, then coarse structure, then all of it."""
    curriculum = _curriculum(recipe)
    images = task.x.numpy().reshape(-1, 1, SIDE, SIDE)
    for stage in range(STAGES):
        shown = np.ascontiguousarray(coarse(images, stage, curriculum)).reshape(len(images), -1)
        yield replace(task, x=torch.from_numpy(shown)), recipe, curriculum.stage_steps


def warmed_up(task: Task, recipe: Recipe) -> Pieces:
    """All samples from the start; the rate rises over the first steps of a task, after the swap."""
    yield task, replace(recipe, warm_up=Curriculum().warm_up), recipe.steps


def easy_first_and_gently(task: Task, recipe: Recipe) -> Pieces:
    """As `easy_first`, and every stage begins at half the rate, the first one with a warm-up."""
    curriculum, far = _curriculum(recipe), _difficulty(task)
    for step in range(0, recipe.steps, STAGE_PIECE):
        admitted = _admitted(task, far, stage_at(step, curriculum), curriculum)
        eased = recipe.learning_rate * rate_factor(step, step, curriculum)
        yield admitted, replace(recipe, learning_rate=eased), STAGE_PIECE


def _curriculum(recipe: Recipe) -> Curriculum:
    return Curriculum(stages=STAGES, stage_steps=math.ceil(recipe.steps / STAGES))


def _difficulty(task: Task) -> Array:
    far = torch.zeros(len(task.y))
    for label in classes_of(task):
        ours = task.y == label
        far[ours] = (task.x[ours] - task.x[ours].mean(dim=0)).norm(dim=1)
    return far.numpy()


def _admitted(task: Task, difficulty: Array, stage: int, curriculum: Curriculum) -> Task:
    chosen = torch.from_numpy(allowed(difficulty, stage, curriculum))
    return replace(task, x=task.x[chosen], y=task.y[chosen])
