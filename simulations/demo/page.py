"""The demo's report as a page: first what a person would look at, then the tables."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from learning_core.params import Array
from simulations import report
from simulations.demo.plan import DEVICES, HOT, LOW, NEW, OLD, TIME_SCALE
from simulations.demo.story import Story, fidelity, published
from simulations.report import Claim

INK, OLD_COLOUR, NEW_COLOUR, LOAD = "#17252a", "#12715b", "#c0592b", "#e8b04b"


def page(story: Story, found: Sequence[Claim], content: Mapping[str, Any]) -> str:
    """The whole page, self-contained."""
    tiles = "".join(_tile(claim) for claim in found if claim.unit in {"s", "share"})
    lead = (
        "<p>One cloud, two fogs and six devices ran as real processes on this machine. The cloud's student knew the "
        "digits 0-4; the devices saw 5-9, each its own mix, and nothing but adapters, counts and metrics left them. "
        f"Heat and charge are <b>simulated</b> ({TIME_SCALE:g} times faster than the clock, driven by the learners' "
        f'real CPU use); everything else is real.</p><div class="tiles">{tiles}</div>'
    )
    first, last = published(story.final)
    sections = {
        "The same requests to the same devices, before and after": report.picture(
            _grid(story.before, story.after), "digits 0 to 9 made by each device under the first and the new release"
        ),
        "What each class gained": report.picture(_bars(first, last), "class fidelity of both releases for each digit")
        + "<p>Class fidelity: the share of 100 generated images of a class that a judge takes for it. The judge is a "
        "classifier that saw all ten digits and trains nothing: a yardstick, and a saturated one, so see KID too "
        "(distance to held-out real images, lower is better).</p>"
        + report.table(
            ("release", "published", "KID old", "KID new", "why"),
            [
                (
                    each["version"],
                    "yes" if each["accepted"] else "no",
                    _round(each["kid_old"]),
                    _round(each["kid_new"]),
                    "; ".join(each["reasons"]),
                )
                for each in content["releases"]
            ],
        ),
        "Heat, charge and learning": "<p>Shaded: the learner at work. Dashed: above 70 °C a device stops learning, "
        "below 65 °C it may start again. One device started hot, one low on charge and was plugged in later.</p>"
        + report.picture(_heat(story), "simulated temperature, charge and learning of the six devices over time"),
        "Devices": report.table(
            (
                "device",
                "decisions",
                "seen",
                "kept",
                "trained",
                "peak °C",
                "release",
                "p50 ms",
                "p99 ms",
                "agent MB",
                "learner MB",
            ),
            [_device_row(name, about) for name, about in content["devices"].items()],
        ),
        "Rounds": "".join(_rounds(fog, rounds) for fog, rounds in content["rounds"].items()),
        "Privacy": f'<p class="note">{html.escape(content["privacy"]["in_words"])}</p>'
        + report.table(
            ("figure", "value"),
            [
                (key, value)
                for key, value in content["privacy"].items()
                if not isinstance(value, dict) and key != "in_words"
            ],
        ),
        "What crossed the tiers": _crossed(content),
        "Where the time went": report.picture(_time(story), "seconds of each phase"),
        "Claims": report.claims_table(found),
    }
    return report.page("Dewfall: six devices taught the fleet five new digits", lead, sections)


def _tile(claim: Claim) -> str:
    kind = {"holds": "good", "falls": "bad"}.get(claim.verdict, "")
    value = f"{claim.value:.0%}" if claim.unit == "share" else f"{claim.value:.0f}"
    unit = "" if claim.unit == "share" else f" {claim.unit}"
    return (
        f'<div class="tile {kind}"><b>{value}{html.escape(unit)}</b><small>{html.escape(claim.statement)}</small></div>'
    )


def _grid(before: Mapping[str, Array], after: Mapping[str, Array]) -> Figure:
    figure = Figure(figsize=(10, 6.6))
    axes = figure.subplots(1, 2)
    for axis, pictures, title in zip(
        axes, (before, after), ("before: release 1", "after: the new release"), strict=True
    ):
        rows = [
            np.concatenate([np.pad(image[0], 1, constant_values=1.0) for image in pictures[name]], axis=1)
            for name in DEVICES
        ]
        sheet = np.concatenate(rows, axis=0)
        axis.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
        side = sheet.shape[0] / len(DEVICES)
        axis.set_title(title, fontsize=11, color=INK)
        axis.set_yticks([side * (row + 0.5) for row in range(len(DEVICES))], DEVICES, fontsize=8)
        axis.set_xticks([side * (column + 0.5) for column in range(10)], [str(condition) for condition in (*OLD, *NEW)])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.tight_layout()
    return figure


def _bars(first: Mapping[str, Any], last: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 2.8))
    axes = figure.subplots()
    conditions = (*OLD, *NEW)
    for offset, release, alpha in ((-0.2, first, 0.35), (0.2, last, 1.0)):
        values = [fidelity(release)[condition] for condition in conditions]
        colours = [OLD_COLOUR if condition in OLD else NEW_COLOUR for condition in conditions]
        axes.bar([index + offset for index in range(10)], values, 0.38, color=colours, alpha=alpha)
    axes.set_xticks(range(10), [str(condition) for condition in conditions])
    axes.set(
        ylim=(0, 1.05),
        ylabel="class fidelity",
        xlabel=f"pale: release {first['version']}, full: release {last['version']}",
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _heat(story: Story) -> Figure:
    figure = Figure(figsize=(10, 5.2))
    axes = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    for axis, twin in zip(axes, story.twins, strict=True):
        history = np.array(twin.history)
        elapsed, die, charge, load = history.T
        axis.fill_between(elapsed, 0, 100, where=load > 0.05, color=LOAD, alpha=0.35, step="mid", lw=0)
        axis.plot(elapsed, die, color=NEW_COLOUR, lw=1.4)
        if twin.board.battery_j is not None:
            axis.plot(elapsed, charge * 100, color=OLD_COLOUR, lw=1.2)
        for limit in (65, 70):
            axis.axhline(limit, color=INK, lw=0.6, ls="--", alpha=0.5)
        note = {HOT: " (starts hot)", LOW: " (starts low on charge)"}.get(twin.name, "")
        axis.set_title(f"{twin.name}{note}", fontsize=9, color=INK)
        axis.set_ylim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("SoC °C (orange)\ncharge % (green)", fontsize=8)
    axes[4].set_xlabel("seconds since the devices woke", fontsize=8)
    figure.tight_layout()
    return figure


def _time(story: Story) -> Figure:
    figure = Figure(figsize=(9, 1.3))
    axes = figure.subplots()
    left = 0.0
    colours = ("#2a7f9e", "#5b9fb5", "#12715b", "#c0592b", "#e8b04b", "#8a9ba0")
    for (phase, seconds), colour in zip(story.seconds.items(), colours, strict=False):
        axes.barh(0, seconds, left=left, color=colour, label=f"{phase}: {seconds:.0f} s")
        left += seconds
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    return figure


def _device_row(name: str, about: Mapping[str, Any]) -> tuple[object, ...]:
    latency, memory, samples = about["inference_ms"], about["rss_mb"], about["samples"]
    told = ", ".join(f"{why} ({times})" for why, times in sorted(about["decisions"].items()))
    return (
        name,
        told,
        samples["seen"],
        samples["kept"],
        samples["trained"],
        about["peak_temperature_c"],
        about["release"]["version"],
        latency["p50_ms"],
        latency["p99_ms"],
        memory["agent"],
        memory["learner"] or "none",
    )


def _rounds(fog: str, rounds: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            each["round"],
            each.get("base_version", "-"),
            ", ".join(each.get("cohort", ())) or "nobody",
            ", ".join(each.get("accepted", ())) or "nobody",
            "; ".join(
                f"{name}: {why}"
                for name, why in {
                    **each.get("declined", {}),
                    **each.get("refused", {}),
                    **each.get("silent", {}),
                }.items()
            ),
            each.get("seconds", "-"),
            each.get("epsilon", "-"),
        )
        for each in rounds
    ]
    return f"<h3>{html.escape(fog)}</h3>" + report.table(
        ("round", "base", "asked (coins)", "accepted", "not counted", "seconds", "epsilon after"), rows
    )


def _crossed(content: Mapping[str, Any]) -> str:
    rows = [
        (
            each["tier"],
            each["direction"],
            each["kind"],
            each["messages"],
            each["bytes"],
            ", ".join(_short(each["fields"])),
        )
        for each in content["crossed"]
    ]
    totals = ", ".join(
        f"{tier} {direction} {count / 1e6:.2f} MB"
        for tier, ways in content["bytes"].items()
        for direction, count in ways.items()
    )
    return f"<p>On the wire, with TLS and protocol: {totals}. The messages themselves:</p>" + report.table(
        ("between fog and", "direction", "kind", "messages", "bytes", "made of"), rows
    )


def _short(fields: Sequence[str]) -> list[str]:
    """Many weights as one entry: an adapter's, or those of a release's files on their way down."""
    release = [each for each in fields if each.startswith("data/") or each == "data: bytes"]
    adapter = [each for each in fields if each not in release and ("lora_B" in each or "label_rows" in each)]
    shown = [each for each in fields if each not in adapter and each not in release]
    if count := sum(each.count("lora_B") + each.count("label_rows") for each in adapter):
        shown.append(f"{count} adapter weights (lora_B, label_rows)")
    return [*shown, "pieces of a release's files"] if release else shown


def _round(value: float | None) -> object:
    return "-" if value is None else round(value, 4)
