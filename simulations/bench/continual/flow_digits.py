"""Claim: a generator that knows 0-4 learns 5-6 and then 7-9, keeps what it knew, and nothing old was stored.

scikit-learn's digits, adapters of rank 8 on a frozen base. Half of each batch asks teachers about new images under old
labels: the base about what it knows, "no label" included, and the model of the step before about the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cloud_server.drivers.digits import load_digits, parted
from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of
from learning_core.models.reflow import straighten, teacher_pairs
from learning_core.models.weights import weights_of
from simulations import report
from simulations.bench.continual.image_pages import contact_sheet, curves, method_table, sheet_of
from simulations.bench.continual.image_steps import (
    ALL,
    Protocol,
    World,
    all_methods,
    by_seed,
    figures_of,
    founded,
    quality,
    seen,
)
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.report import Claim

NAME = "flow_digits"
NEEDS_DATA = False
PROTOCOL = Protocol(
    config=FlowImageConfig(),
    base_steps=500,
    base_rate=2e-2,
    rank=8,
    alpha=16.0,
    steps=300,
    learning_rate=1.5e-2,
    batch=64,
    guidance=1.5,
)
PAIRS, PAIR_STEPS, STRAIGHT_STEPS, STRAIGHT_RATE = 3000, 10, 500, 5e-3
FEW = (1, 2, 4)
SETTING: dict[str, Any] = asdict(PROTOCOL) | {"reflow": (PAIRS, PAIR_STEPS, STRAIGHT_STEPS, STRAIGHT_RATE)}


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:  # noqa: ARG001 - every part is asked alike
    train, held_out = parted(load_digits(), seed, 0.2)
    world = founded(PROTOCOL, train, held_out, seed)
    result, last = all_methods(world, seed)
    return result | {"reflow": few_steps(world, last, seed), "sheet": contact_sheet(world, last, seed)}


def few_steps(
    world: World, model: FlowImage, seed: int, num_pairs: int = PAIRS, training_steps: int = STRAIGHT_STEPS
) -> list[dict[str, float]]:
    """Fidelity and KID of all ten classes in 1, 2 and 4 steps, before and after the flow was straightened."""
    generator = torch.Generator().manual_seed(seed)
    conditions = torch.randint(len(ALL), (num_pairs,), generator=generator)
    pairs = teacher_pairs(model, conditions, PAIR_STEPS, PROTOCOL.guidance, generator)
    straight = flow_image_of(model.config, weights_of(model))
    straighten(straight, pairs, training_steps, STRAIGHT_RATE, seed)
    rows = []
    for kind, one in (("as learned", model), ("straightened", straight)):
        for steps in FEW:
            found = quality(world, seen(world, one, seed, guidance=1.0, steps=steps), ALL)
            rows.append({"straightened": float(kind == "straightened"), "steps": steps} | found)
    return rows


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:  # noqa: ARG001
    found = by_seed(results)
    fidelity = mean_and_spread(found["fidelity"])
    drop = mean_and_spread([max(pair) for pair in zip(found["base_drop"], found["step_drop"], strict=True)])
    drift = mean_and_spread(found["kid_drift"])
    share, distance = "share", "KID"
    claims = [
        _claim("fidelity", "All ten digits are drawn as asked after three steps", fidelity, share, "at_least", 0.995),
        _claim("old_drop", "The worse of both old groups falls by little", drop, share, "at_most", 0.01),
        _claim("kid_drift", "Images of 0-4 stay as real as they were", drift, distance, "at_most", 0.05),
    ]
    sections = {
        "old and new classes after each step": report.picture(
            curves(results), "fidelity of three groups of classes after each step, for three methods"
        ),
        "after three steps": method_table(results),
        "one, two and four steps": few_table(results),
        "what it draws": sheet_of(results),
    }
    return Part(NAME, claims, figures_of(results), sections)


def few_table(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for index, first in enumerate(results[0]["reflow"]):
        alike = [result["reflow"][index] for result in results]
        means = [mean_and_spread([row[name] for row in alike])[0] for name in ("fidelity", "second_judge", "kid")]
        rows.append(("straightened" if first["straightened"] else "as learned", int(first["steps"]), *means))
    return report.table(("flow", "steps, no guidance", "fidelity", "second judge", "KID"), rows)


def _claim(name: str, statement: str, spread: tuple[float, float, float], unit: str, way: Any, target: float) -> Claim:
    return Claim(f"continual.{NAME}.{name}", statement, spread[0], unit, way, target, spread[1], spread[2])
