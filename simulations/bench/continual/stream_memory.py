"""What a learner of a stream of tasks is made of, and what it carries from one task to the next."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from learning_core.memory.replay import Place, evictions
from learning_core.methods import ewc
from learning_core.methods.condensed_replay import Condensed, condense
from learning_core.models.weights import seeded
from simulations.bench.continual.streams import Task

HIDDEN, MEMORY = 64, 100
VECTORS = 10  # for each of ten classes: as many numbers as 100 samples


class Net(nn.Module):
    """inputs-64-outputs, with a mask over outputs that no task has asked for yet."""

    def __init__(self, inputs: int, outputs: int, seed: int) -> None:
        super().__init__()
        sizes = (inputs, HIDDEN), (HIDDEN, outputs)
        self.layers = seeded(lambda: nn.Sequential(nn.Linear(*sizes[0]), nn.ReLU(), nn.Linear(*sizes[1])), seed)
        self.mask = torch.full((outputs,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits + self.mask


@dataclass
class Past:
    """What a method carries from task to task; how much of it is used is the method's affair."""

    x: Tensor
    logits: Tensor
    y: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    task: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    rank: Tensor = field(default_factory=lambda: torch.zeros(0))
    anchors: list[ewc.Anchor] = field(default_factory=list)
    condensed: list[tuple[int, Condensed]] = field(default_factory=list)  # with the label each answers to
    model: Net | None = None


def remember(past: Past, net: Net, task: Task, index: int, seed: int, *, anchored: bool) -> None:
    """Keep what any of the methods may want, within the memory: a balanced reservoir, an anchor, the model."""
    generator = torch.Generator().manual_seed(seed * 100 + index)
    rank = torch.rand(len(task.y), generator=generator)
    with torch.no_grad():
        logits = net.layers(task.x)
    of = torch.full((len(task.y),), index)
    x, y, kept_logits, tasks, ranks = (
        torch.cat(pair)
        for pair in (
            (past.x, task.x),
            (past.y, task.y),
            (past.logits, logits),
            (past.task, of),
            (past.rank, rank),
        )
    )
    labels = y + net.mask.numel() * tasks  # a fair place for every class of every task, also where they share answers
    places = [Place(i, int(labels[i]), 1, float(ranks[i])) for i in range(len(y))]
    gone = set(evictions(places, MEMORY))
    kept = torch.tensor([i for i in range(len(y)) if i not in gone])
    past.x, past.y, past.logits = x[kept], y[kept], kept_logits[kept]
    past.task, past.rank = tasks[kept], ranks[kept]
    trained = dict(net.layers.named_parameters())
    if anchored:  # a backward pass for each sample
        fisher = ewc.fisher_of_logits((net.layers(row[None]) for row in task.x[:100]), trained, generator)
        past.anchors.append(ewc.anchor_at(trained, fisher))
    past.condensed += [(c, condense(task.x[task.y == c], VECTORS)) for c in classes_of(task)]
    past.model = copy.deepcopy(net)


def classes_of(task: Task) -> list[int]:
    return sorted(set(task.y.tolist()))
