"""Adapters on MiniLM's top two blocks and a head over all intents, beside the analytic head: at once, and with DER++.

Both train on what the four frozen blocks below made of each query once. What is rehearsed is such latents too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import numpy as tensors
from torch import Generator, Tensor, nn

from learning_core.methods.experience_replay import der_plus_plus
from learning_core.models.encoder import token_mean
from learning_core.models.encoder_split import split, upper_projections
from learning_core.models.peft_door import Plan, adapted
from learning_core.models.weights import read
from learning_core.training.fitting import Budget, Loss, Recipe, fit, start_state
from learning_core.training.latents import Latents, cached
from protos.state_folder import write_atomically
from simulations.bench.continual.data_clinc import CACHE, WEIGHTS_SHA256, Clinc, minilm, texts_key

BELOW, RANK, WIDTH = 4, 8, 384
SHARPNESS = 16.0  # of logits on embeddings of unit length
BATCH, REHEARSED, STORED_PER_CLASS = 32, 32, 20
JOINT_STEPS, STEPS_PER_TASK = 1500, 150
LEARNING_RATE = 4e-3
ALPHA, BETA = 0.5, 1.0
SETTING = (BELOW, RANK, BATCH, REHEARSED, STORED_PER_CLASS, JOINT_STEPS, STEPS_PER_TASK, LEARNING_RATE, ALPHA, BETA)

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Tuned:
    """The upper blocks with adapters on them, and a head. `leaves`: all that is trained."""

    upper: nn.Module
    leaves: Mapping[str, Tensor]

    @classmethod
    def new(cls, classes: int, seed: int) -> "Tuned":
        module = minilm().module
        plan = Plan(upper_projections(module, BELOW), RANK, seed=seed)
        leaves: dict[str, Tensor] = dict(adapted(module, {"shared": plan}).leaves["shared"])
        return cls(split(module, BELOW)[1], leaves | {"head": torch.zeros(WIDTH, classes, requires_grad=True)})

    def logits(self, latents: Tensor, mask: Tensor) -> Tensor:
        state: Tensor = self.upper(inputs_embeds=latents, attention_mask=mask).last_hidden_state
        return SHARPNESS * nn.functional.normalize(token_mean(state, mask), dim=1) @ self.leaves["head"]

    @torch.no_grad()
    def all_logits(self, latents: Latents, chosen: Labels) -> Tensor:
        """[N, classes], of the chosen samples; like lengths together."""
        order = by_length(latents, chosen)
        pieces = [self.logits(*latents.batch(chosen[part])) for part in np.split(order, range(64, len(order), 64))]
        return torch.cat(pieces)[torch.from_numpy(np.argsort(order))]


def latents_of(clinc: Clinc, cache: Path = CACHE) -> dict[str, Latents]:
    """What leaves MiniLM's lower four blocks, by split; computed once, then read from `cache`."""
    file = cache / f"clinc150-block{BELOW}-{texts_key(clinc)}-{WEIGHTS_SHA256[:12]}.safetensors"
    if not file.exists():
        encoder, arrays = minilm(), dict[str, NDArray[np.generic]]()
        trunk = split(encoder.module, BELOW)[0]

        def passed(ids: Tensor, mask: Tensor) -> Tensor:
            state: Tensor = trunk(ids, attention_mask=mask).last_hidden_state
            return state

        for name in ("train", "val", "test"):
            found = cached(passed, encoder.tokenize(clinc.texts[name]), encoder.padding)
            arrays |= {f"{name}.rows": found.rows, f"{name}.starts": found.starts}
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(file, tensors.save(arrays))
    kept = tensors.load(file.read_bytes())
    return {name: Latents(kept[f"{name}.rows"], kept[f"{name}.starts"]) for name in ("train", "val", "test")}


def together(clinc: Clinc, latents: Mapping[str, Latents], seed: int) -> Tuned:
    """Trained on all tasks at once: the bound for training with adapters."""
    tuned, labels = Tuned.new(len(clinc.intents), seed), clinc.labels["train"]
    learn(tuned, plain_loss(tuned, latents["train"], labels, np.arange(len(labels))), JOINT_STEPS, seed)
    return tuned


def one_after_another(
    clinc: Clinc, latents: Mapping[str, Latents], tasks: Sequence[Sequence[int]], seed: int
) -> list[Labels]:
    """The answers to the test queries after each task, with DER++ on some latents of each intent and their logits."""
    tuned, labels, train = Tuned.new(len(clinc.intents), seed), clinc.labels["train"], latents["train"]
    rng, answers = np.random.default_rng((20, seed)), list[Labels]()
    stored: list[Labels] = []
    dark: list[Tensor] = []
    for number, intents in enumerate(tasks):
        mine = np.flatnonzero(np.isin(labels, intents))
        penalties = [rehearsal(tuned, train, labels, np.concatenate(stored), torch.cat(dark))] if stored else []
        learn(tuned, plain_loss(tuned, train, labels, mine), STEPS_PER_TASK, seed * len(tasks) + number, penalties)
        chosen = [rng.permutation(mine[labels[mine] == intent])[:STORED_PER_CLASS] for intent in intents]
        stored.append(np.concatenate(chosen))
        dark.append(tuned.all_logits(train, stored[-1]))
        known = np.concatenate(tasks[: number + 1])  # nothing is known of what comes later: it need not be asked
        answers.append(answers_of(tuned, latents["test"], np.flatnonzero(np.isin(clinc.labels["test"], known))))
    return answers


def learn(tuned: Tuned, loss: Loss, steps: int, seed: int, penalties: Sequence[Loss] = ()) -> None:
    recipe = Recipe(steps=steps, batch=BATCH, learning_rate=LEARNING_RATE, seed=seed)
    fit(tuned.leaves, loss, recipe, start_state(read(tuned.leaves)), Budget(steps), penalties=penalties)


def plain_loss(tuned: Tuned, latents: Latents, labels: Labels, among: Labels) -> Loss:
    among = among[by_length(latents, among)]

    def loss(generator: Generator) -> Tensor:
        chosen = among[alike(len(among), BATCH, generator)]
        return nn.functional.cross_entropy(tuned.logits(*latents.batch(chosen)), torch.from_numpy(labels[chosen]))

    return loss


def rehearsal(tuned: Tuned, latents: Latents, labels: Labels, stored: Labels, dark: Tensor) -> Loss:
    """DER++ with one draw for both of its terms, which halves what it costs."""
    order = by_length(latents, stored)
    stored, dark = stored[order], dark[torch.from_numpy(order)]

    def loss(generator: Generator) -> Tensor:
        drawn = alike(len(stored), REHEARSED, generator)
        chosen = stored[drawn]
        logits = tuned.logits(*latents.batch(chosen))
        return der_plus_plus(logits, dark[drawn], torch.from_numpy(labels[chosen]), ALPHA, BETA)

    return loss


def by_length(latents: Latents, among: Labels) -> Labels:
    """The order that brings these samples from the shortest to the longest."""
    return np.argsort(np.diff(latents.starts)[among], kind="stable")


def alike(number: int, batch: int, generator: Generator) -> Labels:
    """Places of samples ordered by length that are about as long as each other: little padding, half the work.

    All are equally likely: a window, an eighth of all, begins anywhere and goes on from the front at the end.
    """
    window = max(batch, number // 8)
    begin = int(torch.randint(number, (1,), generator=generator))
    inside = torch.randint(window, (batch,), generator=generator).numpy()
    return np.asarray((begin + inside) % number, np.int64)


def answers_of(tuned: Tuned, latents: Latents, asked: Labels | None = None) -> Labels:
    """What each sample is taken for, [N]; those that are not asked are taken for nothing, -1."""
    rows = np.arange(len(latents)) if asked is None else asked
    answers = np.full(len(latents), -1, np.int64)
    answers[rows] = tuned.all_logits(latents, rows).argmax(dim=1).numpy()
    return answers
