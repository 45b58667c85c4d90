"""The protocol of `flow_mnist` on clothes: Fashion-MNIST's first 3,615 images. Figures without a target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning_core.errors import ConfigError
from simulations.bench.continual import flow_mnist
from simulations.bench.continual.data_images import load_fashion
from simulations.bench.continual.image_steps import figures_of
from simulations.bench.continual.part import Part

NAME = "flow_fashion"
NEEDS_DATA = True
SETTING: dict[str, Any] = flow_mnist.SETTING


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    if data is None:
        raise ConfigError("Fashion-MNIST is not shipped; give the folder that holds fashion_mnist_3615/ with --data")
    return flow_mnist.measured(load_fashion(data), seed)


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:  # noqa: ARG001
    return Part(NAME, [], figures_of(results), flow_mnist.sections_of(results))
