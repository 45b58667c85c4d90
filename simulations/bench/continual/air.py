"""Beijing's air by season: the same question under weather that changes, one season after another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from simulations import report
from simulations.bench.continual.data_air import SEASONS, seasons
from simulations.bench.continual.digits import metrics_of, metrics_table
from simulations.bench.continual.part import Part
from simulations.bench.continual.stream_runs import METHODS, matrix

NAME = "air"
NEEDS_DATA = True
SETTING: dict[str, Any] = {"version": 3, "methods": {name: str(method) for name, method in METHODS.items()}}


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    """R of every method over the four seasons."""
    assert data is not None
    tasks = seasons(data, seed)
    return {name: matrix(tasks, method, seed) for name, method in METHODS.items()}


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:  # noqa: ARG001 - there are none
    matrices = {name: [result[name] for result in results] for name in METHODS}
    metrics = metrics_of(matrices)
    sections = {
        "accuracy of four levels of PM2.5": metrics_table(metrics),
        "spring, while the other seasons are learned": _spring(matrices),
    }
    return Part(NAME, [], {"matrices": matrices, "metrics": metrics}, sections)


def _spring(matrices: dict[str, list[Any]]) -> str:
    figure = Figure(figsize=(7, 3.5))
    axes = figure.subplots()
    for name in ("naive", "EWC", "GEM", "DER++", "condensed replay"):
        axes.plot(SEASONS, np.mean(matrices[name], axis=0)[1:, 0], marker="o", label=name)
    axes.set_ylabel("accuracy on spring")
    axes.set_xlabel("after learning")
    axes.legend()
    axes.grid(alpha=0.3)
    return report.picture(figure, "Accuracy on spring after each season, by method")
