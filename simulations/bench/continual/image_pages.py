"""What a person looks at: curves of old and new classes, a table of methods, and the images themselves."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from learning_core.models.flow_image import FlowImage
from simulations import report
from simulations.bench.continual.image_steps import BASE, World, drawn, stepwise
from simulations.bench.continual.part import mean_and_spread

STAGES = ("untrained", "base", "second step", "third step")
GROUP_NAMES = ("0-4", "5, 6", "7, 8, 9")
STYLES = {"distilled": "-", "naive": "--", "generative replay": ":"}
COLOURS = ("#12715b", "#2a7f9e", "#c0592b")
PER_CONDITION = 4
COLUMNS = ("fidelity", "second_judge", "kid", "fid", "out_of_range", "nearest_neighbour_ratio", "diversity")


def curves(results: Sequence[Mapping[str, Any]]) -> Figure:
    """The mean matrix R of each method that learns in steps: one line for each group of classes."""
    figure = Figure(figsize=(7.5, 3.6))
    axes = figure.subplots()
    for method in stepwise(results):
        mean = np.mean([result["methods"][method]["matrix"] for result in results], axis=0)
        for group, (name, colour) in enumerate(zip(GROUP_NAMES, COLOURS, strict=True)):
            label, style = f"{name}, {method}", STYLES[method]
            axes.plot(STAGES[1:], mean[1:, group], style, color=colour, marker="o", ms=4, label=label)
    axes.set(ylabel="class fidelity", ylim=(-0.03, 1.05))
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def method_table(results: Sequence[Mapping[str, Any]]) -> str:
    """All ten classes after the last step, a row for each method; KID of 0-4 beside what the base had."""
    rows = []
    for method in results[0]["methods"]:
        found = [result["methods"][method] for result in results]
        means = [mean_and_spread([row["all"][name] for row in found])[0] for name in COLUMNS]
        drift = mean_and_spread(
            [row["old"]["kid"] - result["before"]["kid"] for row, result in zip(found, results, strict=True)]
        )
        rows.append((method, *means, drift[0]))
    headings = [name.replace("_", " ") for name in COLUMNS]
    return report.table(("method", *headings, "KID drift of 0-4"), rows)


def contact_sheet(world: World, model: FlowImage, seed: int) -> dict[str, str]:
    """The same noise drawn by the base and after the last step, as bytes in base64: a row for each condition."""
    asked = torch.arange(10).repeat_interleave(PER_CONDITION)
    guidance, steps = world.protocol.guidance, world.protocol.sampling_steps
    found = {
        "before": drawn(world.base(), asked[: len(BASE) * PER_CONDITION], guidance, steps, seed),
        "after": drawn(model, asked, guidance, steps, seed),
    }
    return {name: base64.b64encode(_grey(images).tobytes()).decode() for name, images in found.items()}


def sheet_of(results: Sequence[Mapping[str, Any]]) -> str:
    """The first seed's images: what the base draws of 0-4, and all ten classes after the last step."""
    after = _grid(results[0]["sheet"]["after"], 10)
    before = _grid(results[0]["sheet"]["before"], len(BASE))
    figure = Figure(figsize=(7.5, 2.6))
    left, right = figure.subplots(1, 2, width_ratios=(len(BASE), 10))
    for axes, grid, name in ((left, before, "base"), (right, after, "after three steps")):
        axes.imshow(grid, cmap="gray", vmin=0, vmax=255)
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    return report.picture(figure, "digits drawn by the base and, from the same noise, after three steps")


def _grey(images: Any) -> Any:
    return np.clip((images[:, 0] + 1) * 127.5, 0, 255).astype(np.uint8)


def _grid(packed: str, conditions: int) -> Any:
    """One column for each condition: [PER_CONDITION * side, conditions * side]."""
    flat = np.frombuffer(base64.b64decode(packed), np.uint8)
    side = round((len(flat) / (conditions * PER_CONDITION)) ** 0.5)
    images = flat.reshape(conditions, PER_CONDITION, side, side)
    return images.transpose(1, 2, 0, 3).reshape(PER_CONDITION * side, conditions * side)
