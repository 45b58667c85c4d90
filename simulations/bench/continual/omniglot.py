"""A device learns its user's hand: half of one person's characters are seen, the other half shows what was learned.

Omniglot's Latin alphabet. The base knows every character from twelve people; an adapter sees 13 characters of another.
Measured in the loss of flow matching at fixed noise and times: how much better the hand's other 13 characters are
explained, and how much worse those of other people the base has not seen. A figure without a claim.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from learning_core.errors import ConfigError
from learning_core.metrics.images import Labels
from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_points, new_flow_image, points_loss
from learning_core.models.lora import build_student, read_adapter, start_factors
from learning_core.models.pretraining import pretrain
from learning_core.models.weights import as_tensor, weights_of
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import fit_flow
from simulations import report
from simulations.bench.continual.data_images import load_omniglot
from simulations.bench.continual.part import Part, mean_and_spread

NAME = "omniglot"
NEEDS_DATA = True
ALPHABET, CHARACTERS = "Latin", 26
CONFIG = FlowImageConfig(side=20, patch=5, num_conditions=CHARACTERS)
BASE_DRAWERS, USERS = 12, 4  # of twenty; those who are left over tell what was forgotten
BASE_STEPS, BASE_RATE = 500, 2e-2
RANK, ALPHA = 8, 16.0
STEPS, LEARNING_RATE, BATCH = 40, 1e-3, 32
MOMENTS = 16  # noises and times for each image that the loss is averaged over
SETTING: dict[str, Any] = asdict(CONFIG) | {
    "drawers": (BASE_DRAWERS, USERS),
    "base": (ALPHABET, BASE_STEPS, BASE_RATE),
    "adapter": (RANK, ALPHA, STEPS, LEARNING_RATE, BATCH),
    "moments": MOMENTS,
}


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    if data is None:
        raise ConfigError("Omniglot is not shipped; give the folder that holds omniglot/ with --data")
    hands = load_omniglot(data, ALPHABET, CONFIG.side)
    rng = np.random.default_rng(seed)
    people = rng.permutation(np.unique(hands.drawers))
    of_base, users, others = np.split(people, [BASE_DRAWERS, BASE_DRAWERS + USERS])
    seen_characters = rng.permutation(CHARACTERS)[: CHARACTERS // 2]

    def by(drawers: Sequence[int] | Labels, characters: Sequence[int] | Labels = range(CHARACTERS)) -> Batch:
        mine = np.isin(hands.drawers, drawers) & np.isin(hands.samples.conditions, characters)
        return Batch(hands.samples.features[mine], hands.samples.conditions[mine])

    model = new_flow_image(CONFIG, seed)
    pretrain(model, by(of_base), BASE_STEPS, BASE_RATE, seed)
    base = weights_of(model)
    unseen = np.setdiff1d(np.arange(CHARACTERS), seen_characters)
    methods = {"naive": (), "distilled": (*unseen.tolist(), CONFIG.null_condition)}
    start = start_factors(CONFIG, RANK, seed)
    recipe = Recipe(steps=STEPS, batch=BATCH, learning_rate=LEARNING_RATE, seed=seed)
    rows = []
    for user in users:
        measured = by([user], unseen), by(others)
        before = [loss_of(model, samples) for samples in measured]
        for kind, known in methods.items():
            student = build_student(CONFIG, base, start, ALPHA, range(CHARACTERS))
            fit_flow(student, by([user], seen_characters), known, recipe, start_state(read_adapter(student)), STEPS)
            after = [loss_of(student, samples) for samples in measured]
            rows.append({"user": int(user), "kind": kind, "before": before, "after": after})
    return {"rows": rows}


@torch.no_grad()
def loss_of(model: FlowImage, samples: Batch) -> float:
    """Flow-matching loss of images under their labels, over the same noises and times for every model."""
    x = as_tensor(np.repeat(samples.features, MOMENTS, axis=0))
    y = torch.tensor(samples.conditions).repeat_interleave(MOMENTS)
    points = flow_points(x, y, model.config.null_condition, Generator().manual_seed(0), label_dropout=0.0)
    return float(points_loss(model, points))


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:  # noqa: ARG001
    found: dict[str, dict[str, Any]] = {}
    for kind in ("naive", "distilled"):
        mine = [[row for row in result["rows"] if row["kind"] == kind] for result in results]
        gains = [float(np.mean([1 - row["after"][0] / row["before"][0] for row in rows])) for rows in mine]
        losses = [float(np.mean([row["after"][1] / row["before"][1] - 1 for row in rows])) for rows in mine]
        found[kind] = {"gain": mean_and_spread(gains), "forgetting": mean_and_spread(losses)}
    rows = [
        (kind, *(f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in spreads.values()))
        for kind, spreads in found.items()
    ]
    headings = ("method", "loss saved on the hand's unseen characters, share", "loss added on other people's, share")
    figures = {"per_seed": list(results), "by_method": found}
    return Part(NAME, [], figures, {"a device learns its user's hand": report.table(headings, rows)})
