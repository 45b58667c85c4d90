"""The serving benchmark's plots."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulations.bench.serve_language import Turns
from simulations.bench.serve_training import Blocks

TARGET = 2.0


def slow_answers(blocks: Blocks) -> Any:
    """How many requests took longer than so long."""
    figure, axes = _axes()
    for label, kind, colour in (
        ("the learner stands still", blocks.idle_ms, "#12715b"),
        (f"the learner at work ({blocks.scheduling})", blocks.training_ms, "#c0592b"),
    ):
        took = np.sort(np.concatenate([np.asarray(block) for block in kind]))
        axes.plot(took, 1 - np.arange(len(took)) / len(took), color=colour, label=label)
    axes.axhline(0.01, color="0.6", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="milliseconds a request", ylabel="share that took longer")
    axes.legend(frameon=False)
    return figure


def speed_by_size(language: Sequence[Turns]) -> Any:
    """What integers gain, by how much is read at once."""
    figure, axes = _axes()
    for width in sorted({turns.size.width for turns in language}):
        line = [turns for turns in language if turns.size.width == width]
        gained = [np.median(turns.ratios) for turns in line]
        spread = [np.abs(np.quantile(turns.ratios, (0.25, 0.75)) - np.median(turns.ratios)) for turns in line]
        lengths = [turns.size.length for turns in line]
        axes.errorbar(lengths, gained, yerr=np.array(spread).T, marker="o", capsize=2, label=f"{width} wide")
    axes.axhline(TARGET, color="0.6", linestyle=":", linewidth=1)
    axes.set(xscale="log", xlabel="bytes read at once", ylabel="times as fast as float32")
    axes.legend(frameon=False)
    return figure


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second to import

    figure = Figure(figsize=(7.5, 3.4))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
