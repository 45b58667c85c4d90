"""What a person looks at: accuracy against the share of the stream that was kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from simulations import report
from simulations.bench.continual.part import mean_and_spread

COLOURS = {"ours": "#12715b", "uncertainty": "#2a7f9e", "novelty": "#c0592b", "random": "#5b6f76"}


def selection_sections(name: str, results: Sequence[Mapping[str, Any]], shares: Sequence[float]) -> dict[str, str]:
    """A plot of both streams and a table: accuracy with its interval, share kept, microseconds a sample."""
    figure = Figure(figsize=(9, 3.4))
    rows: list[tuple[str | float, ...]] = []
    for axes, stream in zip(figure.subplots(1, len(results[0])), results[0], strict=True):
        everything = mean_and_spread([result[stream]["everything"]["accuracy"] for result in results])
        rows.append((stream, "everything", 1.0, *everything, "-"))
        axes.axhline(everything[0], color="#17252a", ls="--", lw=1, label="everything")
        for kind, colour in COLOURS.items():
            points = []
            for share in shares:
                found = [result[stream]["selectors"][kind][str(share)] for result in results]
                accuracy = mean_and_spread([row["accuracy"] for row in found])
                kept = mean_and_spread([row["kept"] for row in found])[0]
                micros = [row["microseconds"] for row in found if "microseconds" in row]
                rows.append((stream, kind, kept, *accuracy, mean_and_spread(micros)[0] if micros else "-"))
                points.append((kept, *accuracy))
            kept_at, mean, low, high = zip(*points, strict=True)
            axes.plot(kept_at, mean, marker="o", ms=4, color=colour, label=kind)
            axes.fill_between(kept_at, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(title=stream, xlabel="share of the stream kept", ylabel="accuracy")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].legend(frameon=False, fontsize=8)
    headings = ("stream", "selector", "share kept", "accuracy", "low", "high", "microseconds a sample")
    picture = report.picture(figure, f"accuracy on {name} against the share of each stream that was kept")
    note = "<p>Random keeps as many as ours did. Duplicates are dropped outright, so a budget may go unused.</p>"
    return {f"Keeping a part of the stream ({name})": picture + note + report.table(headings, rows)}
