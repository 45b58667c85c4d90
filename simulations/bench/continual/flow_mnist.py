"""Claim: the protocol of `flow_digits` holds at 28 x 28, on MNIST's test part: 0-4, then 5-6, then 7-9, nothing stored.

Patches of 7 pixels, half a million weights, adapters of rank 16. A fifth of the images is held out from everything but
the measures.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloud_server.drivers.digits import parted
from learning_core.errors import ConfigError
from learning_core.models.flow_image import FlowImageConfig
from learning_core.samples import Batch
from simulations import report
from simulations.bench.continual.data_images import load_mnist
from simulations.bench.continual.image_pages import contact_sheet, curves, method_table, sheet_of
from simulations.bench.continual.image_steps import (
    Protocol,
    all_methods,
    by_seed,
    figures_of,
    founded,
)
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.report import Claim

NAME = "flow_mnist"
NEEDS_DATA = True
PROTOCOL = Protocol(
    config=FlowImageConfig(side=28, patch=7, width=96, depth=4, heads=4),
    base_steps=1400,
    base_rate=2e-2,
    rank=16,
    alpha=32.0,
    steps=500,
    learning_rate=1.5e-2,
    batch=64,
    guidance=2.0,
    images_per_condition=50,
    methods=("distilled", "naive", "joint"),
)
JUDGE_EPOCHS = 3
SETTING: dict[str, Any] = asdict(PROTOCOL) | {"judge_epochs": JUDGE_EPOCHS}


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    if data is None:
        raise ConfigError("MNIST is not shipped; give the folder that holds mnist_t10k/ with --data")
    return measured(load_mnist(data), seed)


def measured(samples: Batch, seed: int) -> dict[str, Any]:
    """The protocol on any ten classes of such images."""
    train, held_out = parted(samples, seed, 0.2)
    world = founded(PROTOCOL, train, held_out, seed, JUDGE_EPOCHS)
    result, last = all_methods(world, seed)
    return result | {"sheet": contact_sheet(world, last, seed)}


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:  # noqa: ARG001
    mean, low, high = mean_and_spread(by_seed(results)["fidelity"])
    statement = "All ten digits are drawn as asked after three steps, at 28 x 28"
    claim = Claim(f"continual.{NAME}.fidelity", statement, mean, "share", "at_least", 0.95, low, high)
    return Part(NAME, [claim], figures_of(results), sections_of(results))


def sections_of(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        "old and new classes after each step": report.picture(
            curves(results), "fidelity of three groups of classes after each step, with and without rehearsal"
        ),
        "after three steps": method_table(results),
        "what it draws": sheet_of(results),
    }
