"""Digits as a stream of tasks, in the three settings of van de Ven and Tolias 2019 (arXiv:1904.07734)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from learning_core.samples import split

Setting = Literal["class", "domain", "task"]
CLASSES = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
TEST_SHARE = 397 / 1797


@dataclass(frozen=True, slots=True)
class Task:
    """x: [N, 64] in 0..1; y: [N] int64. `outputs`: which of the head's outputs may answer when this task is tested."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    outputs: Tensor


def split_digits(setting: Setting, seed: int) -> list[Task]:
    """Five tasks of two digits. class: which of ten; task: which of the two, told which two; domain: odd or even."""
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    train, test = (torch.tensor(part) for part in split(len(y), seed, TEST_SHARE))
    tasks = []
    for classes in CLASSES:
        ours, tested = (part[torch.isin(y[part], torch.tensor(classes))] for part in (train, test))
        answers = torch.arange(2) if setting == "domain" else torch.arange(10)
        outputs = torch.tensor(classes) if setting == "task" else answers
        labels = [y[part] % 2 if setting == "domain" else y[part] for part in (ours, tested)]
        tasks.append(Task(x[ours], labels[0], x[tested], labels[1], outputs))
    return tasks


def joined(tasks: Sequence[Task]) -> Task:
    """All tasks at once: the bound that forgetting is measured against."""

    def together(part: Callable[[Task], Tensor]) -> Tensor:
        return torch.cat([part(task) for task in tasks])

    outputs = torch.tensor(sorted({int(output) for task in tasks for output in task.outputs}))
    x, y = together(lambda task: task.x), together(lambda task: task.y)
    return Task(x, y, together(lambda task: task.test_x), together(lambda task: task.test_y), outputs)


def accuracies(model: torch.nn.Module, tasks: Sequence[Task]) -> list[float]:
    """Share right on each task's test samples, with one head for all: a row of R."""
    with torch.no_grad():
        return [
            float((task.outputs[model(task.test_x)[:, task.outputs].argmax(dim=1)] == task.test_y).float().mean())
            for task in tasks
        ]
