"""How each method of the core learns a stream of tasks with an MLP: what it keeps, and what it adds to a step.

Everything goes through one `fit`; a method is a choice of loss, penalties, memory losses and correction. All but the
plain ones leave outputs not yet asked for out of the loss: otherwise they are pushed down long before their turn.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from torch import Generator, Tensor, nn

from learning_core.memory.curriculum import Curriculum, allowed, rate_factor, stage_at
from learning_core.memory.replay import Place, evictions
from learning_core.methods import ewc, gem
from learning_core.methods.condensed_replay import Condensed, condense, draw
from learning_core.methods.distillation import lwf
from learning_core.methods.experience_replay import der_plus_plus, er_ace
from learning_core.training.fitting import Budget, Correction, Loss, Recipe, fit, read, start_state
from simulations.bench.continual.streams import Task, accuracies, joined

HIDDEN, BATCH, EPOCHS, MEMORY = 64, 16, 5, 100
PLAIN_RATE = 0.1
REHEARSED = 64
DRAWN = 256  # condensed samples a step: they cost no memory, and 128 of them lose half a point
UNSEEN = -30.0  # added to a logit that may not answer yet
VECTORS = 10  # for each of ten classes: as many numbers as 100 samples
STAGE_PIECE = 5  # steps at one rate
EWC_WEIGHT = 0.02  # of a Fisher with mean 1; ten times as much diverges at this rate


class Net(nn.Module):
    """inputs-64-outputs, with a mask over outputs that no task has asked for yet."""

    def __init__(self, inputs: int, outputs: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))
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


@dataclass(frozen=True)
class Terms:
    """What one task's fit is given."""

    loss: Loss
    penalties: Sequence[Loss] = ()
    memory: Sequence[Loss] = ()
    correction: Correction | None = None


Method = Callable[[Net, Task, Past], Terms]


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
        remember(past, net, task, index, seed)
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


def remember(past: Past, net: Net, task: Task, index: int, seed: int) -> None:
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
    fisher = ewc.fisher_of_logits((net.layers(row[None]) for row in task.x[:100]), trained, generator)
    past.anchors.append(ewc.anchor_at(trained, fisher))
    past.condensed += [(c, condense(task.x[task.y == c], VECTORS)) for c in classes_of(task)]
    past.model = copy.deepcopy(net)


def classes_of(task: Task) -> list[int]:
    return sorted(set(task.y.tolist()))


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
    def loss(generator: Generator) -> Tensor:
        x, y = drawn(task, generator)
        return er_ace(net(x), y) if len(past.y) else F.cross_entropy(net(x), y)

    return replace(replay(net, task, past), loss=loss)


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


METHODS = {
    "naive": Choice(naive),
    "EWC": Choice(elastic),
    "LwF": Choice(without_forgetting),
    "A-GEM": Choice(averaged_gem),
    "GEM": Choice(full_gem),
    "replay": Choice(replay),
    "ER-ACE": Choice(asymmetric_replay),
    "DER++": Choice(dark_replay),
    "condensed replay": Choice(condensed_replay, rate=3e-2, optimizer="adam", masked=True),
    "condensed replay, curriculum": Choice(condensed_replay, rate=3e-2, optimizer="adam", masked=True, staged=True),
    "joint": Choice(naive, rate=3e-2, optimizer="adam", joint=True),
}
