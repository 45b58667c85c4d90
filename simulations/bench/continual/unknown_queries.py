"""How well questions outside everything that was learned stand out, and what a person sees of it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from learning_core.memory.out_of_scope import Scores, known_scope, strangeness
from learning_core.params import Array
from simulations import report

RESAMPLES = 1000
POINTS = 200  # of the curve


def scope_of(
    embeddings: Mapping[str, Array], labels: NDArray[np.int64], logits: Callable[[Array], Array]
) -> dict[str, Any]:
    """AUROC on the test split's questions, with and without a classifier's logits; no such question is learned from.

    `confirmation` is on the 200 out-of-scope questions of the other splits, which nothing here is fitted to either.
    """
    train, held_out, inside = embeddings["train"], embeddings["val"], embeddings["test"]
    outside = embeddings["oos_test"]
    others = np.concatenate((embeddings["oos_train"], embeddings["oos_val"]))
    scope = known_scope(train, labels, held_out, logits(held_out))
    known, unknown, confirming = (strangeness(scope, part, logits(part)) for part in (inside, outside, others))
    plain = known_scope(train, labels, held_out)
    false, true = curve(known, unknown)
    return {
        "auroc": auroc(known, unknown),
        "interval": interval(known, unknown, np.random.default_rng(0)),
        "without_classifier": auroc(strangeness(plain, inside), strangeness(plain, outside)),
        "confirmation": auroc(known, confirming),
        "curve": {"false_alarms": false, "found": true},
    }


def auroc(known: Scores, unknown: Scores) -> float:
    """The chance that something unknown scores higher than something known; a tie counts half."""
    ranks = rankdata(np.concatenate((known, unknown)))[len(known) :]
    return float((ranks.mean() - (len(unknown) + 1) / 2) / len(known))


def interval(known: Scores, unknown: Scores, rng: np.random.Generator) -> tuple[float, float]:
    """95 % of the AUROC over resamples of both sides (Efron 1979)."""
    drawn = [
        auroc(rng.choice(known, len(known)), rng.choice(unknown, len(unknown)))  # with replacement
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def curve(known: Scores, unknown: Scores) -> tuple[list[float], list[float]]:
    """Share of known ones flagged and of unknown ones found, from the strictest bar to none."""
    bars = np.quantile(known, np.linspace(1, 0, POINTS) ** 2)
    false = [float((known > bar).mean()) for bar in bars]
    found = [float((unknown > bar).mean()) for bar in bars]
    return [0.0, *false, 1.0], [0.0, *found, 1.0]


def scope_section(scope: Mapping[str, Any]) -> dict[str, str]:
    figure = Figure(figsize=(4.2, 3.6))
    axes = figure.subplots()
    axes.plot(scope["curve"]["false_alarms"], scope["curve"]["found"], color="#12715b")
    axes.plot((0, 1), (0, 1), ":", color="#5b6f76", lw=1)
    axes.set(xlabel="questions in scope that are flagged", ylabel="questions out of scope that are found")
    axes.spines[["top", "right"]].set_visible(False)
    rows = (
        ("1,000 test questions", scope["auroc"]),
        ("the same, without a classifier's logits", scope["without_classifier"]),
        ("200 questions of the other splits", scope["confirmation"]),
    )
    text = report.table(("out of scope", "AUROC"), rows)
    return {"Out of scope": text + report.picture(figure, "share found against share of false alarms")}
