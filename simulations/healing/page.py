"""The healing scenario's page: claims, a table by fault, who was taken for what, and how answers came back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.healing.diagnosis import Cause
from simulations import report
from simulations.healing.faults import RAMP_TICKS
from simulations.healing.scoring import Result, recovery
from simulations.report import Claim

HEADINGS = (
    "fault",
    "harmful",
    "found",
    "named right",
    "mean ticks to find",
    "from harm",
    "to recover, worst",
    "good share: left alone",
    "healed",
    "unharmed",
)


def page(found: Sequence[Claim], results: Sequence[Result], figures: Mapping[str, Any]) -> str:
    """A page of its own."""
    setting, quiet = figures["setting"], figures["quiet"]
    lead = (
        f"<p>{setting['seeds']} seeds on {setting['students']} <b>real</b> students of handwritten digits; faults, "
        "requests and the time a pass takes are <b>simulated</b>. A tick is one look of the agent, and "
        f"{setting['requests']} requests of others. An answer is good when a second judge, which no rule uses, sees "
        "what was asked, it came in time and asking again gives the same. A fault is harmful when, left alone, the "
        "share of good answers falls by more than two standard errors.</p>"
    )
    sections = {
        "Claims": report.claims_table(found),
        "By fault": report.table(
            HEADINGS,
            [_line(name, group) for name, group in _grouped(results).items()],
        ),
        "Named for what it was": report.picture(_confusion(results), "a table of faults and the causes named"),
        "Share of good answers": report.picture(
            _curves(results), "share of good answers by tick, healed and left alone"
        ),
        "Where nothing harmful happened": (
            f"<p>{quiet['ticks']} ticks without a fault or with honest learning that changed the weights: "
            f"{quiet['looked']} times re-runs were made, {quiet['acted']} times something was done.</p>"
        ),
    }
    if figures["ablation"]:
        headings = (
            "thresholds",
            "found",
            "harmful",
            "mean tick",
            "re-runs per 1,000 quiet ticks",
            "remedies per 1,000",
        )
        sections["Other thresholds"] = report.table(
            headings, [tuple("-" if v is None else v for v in row.values()) for row in figures["ablation"]]
        )
    return report.page("A device that heals itself", lead, sections)


def _grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        kind = f", over {RAMP_TICKS} ticks" if result.plan.ramped else ""
        groups.setdefault(f"{result.name}{kind}", []).append(result)
    return groups


def _line(name: str, group: Sequence[Result]) -> tuple[object, ...]:
    harmful = [each for each in group if each.is_harmful]
    found = [each for each in harmful if each.detected_at is not None]
    ticks = [each.detected_at for each in found if each.detected_at is not None]
    from_harm = [each.detected_at - each.harm_at for each in found if each.detected_at is not None]
    return (
        name,
        f"{len(harmful)} of {len(group)}",
        len(found),
        sum(each.is_right for each in found),
        _mean(ticks),
        _mean(from_harm),
        max((recovery(each) for each in harmful), default="-"),
        _mean([float(each.unhealed[-10:].mean()) for each in group]),
        _mean([float(each.healed.good[-10:].mean()) for each in group]),
        _mean([float(each.unharmed[-10:].mean()) for each in group]),
    )


def _mean(values: Sequence[float]) -> float | str:
    return float(np.mean(values)) if values else "-"


def _confusion(results: Sequence[Result]) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second to import

    rows = list(dict.fromkeys(each.name for each in results))
    columns = [*Cause, "nothing"]
    counts = np.zeros((len(rows), len(columns)))
    for each in results:
        for cause in each.named or ({"nothing"} if not each.found else {Cause.HARMLESS}):
            counts[rows.index(each.name), columns.index(cause)] += 1
    figure = Figure(figsize=(7.5, 0.32 * len(rows) + 1.6))
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(1, counts.max(axis=1, keepdims=True)), cmap="Blues", aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), [str(each) for each in columns], rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    return figure


def _curves(results: Sequence[Result]) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415

    groups = _grouped(results)
    wide = 4
    figure = Figure(figsize=(11, 1.7 * -(-len(groups) // wide)))
    panels = np.atleast_2d(figure.subplots(-(-len(groups) // wide), wide, squeeze=False))
    for axes, (name, group) in zip(panels.flat, groups.items(), strict=False):
        for series, colour, label in (
            ([each.unhealed for each in group], "#c0592b", "left alone"),
            ([each.healed.good for each in group], "#12715b", "healed"),
        ):
            axes.plot(np.mean(series, axis=0), color=colour, label=label, lw=1.4)
        axes.axhline(float(np.mean([each.unharmed.mean() for each in group])), color="#999", lw=0.8, ls=":")
        axes.set_title(name, fontsize=7.5)
        axes.set_ylim(-0.03, 1.05)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels.flat)[len(groups) :]:
        axes.axis("off")
    panels.flat[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    return figure
