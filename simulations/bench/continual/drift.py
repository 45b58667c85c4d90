"""Claim: a drift is seen no later than by river's ADWIN, at one false alarm in 10,000 items at most.

Every detector is calibrated alike: of a grid of settings, those with at most one false alarm per 10,000 items on each
kind of stationary stream, over all seeds, are admitted, and the quickest of them stands for it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from learning_core.memory import adwin, page_hinkley
from learning_core.memory.drift import shift
from simulations import report
from simulations.bench.continual.drift_streams import drifting, outcome, stationary
from simulations.bench.continual.part import Part, run_peer
from simulations.report import Claim

NAME = "drift"
NEEDS_DATA = False
SETTING: dict[str, Any] = {
    "stationary": {"runs": 10, "length": 10_000},
    "drifting": {"repeats": 16, "earliest": 1000, "latest": 2000, "after": 2000},
    "page_hinkley": [20.5, 21.5, 22.5, 24.0],
    "adwin": [0.01, 0.03, 0.05],
    "river": {"delta": [0.002, 0.06, 0.08, 0.085, 0.09, 0.1, 0.15, 0.18], "clock": [1, 32]},
    "embeddings": {"runs": 1, "length": 10_000, "repeats": 8, "reference": 100, "window": 50, "level": 0.004},
}
PEER = "river ADWIN"
OURS = "Page-Hinkley"
PER = 10_000
SCRIPT = Path(__file__).parent / "peers" / "river_adwin.py"
Results = Mapping[str, Mapping[str, Any]]  # setting -> alarms and delays by kind


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:  # noqa: ARG001 - every part is asked alike
    still = stationary(seed, **SETTING["stationary"])
    moving, changes = drifting(seed, **SETTING["drifting"])
    after = SETTING["drifting"]["after"]

    def tried(make: Callable[[Any], Callable[[float], bool]], rules: Mapping[str, object]) -> dict[str, Any]:
        return {name: outcome(partial(make, rule), still, moving, changes, after) for name, rule in rules.items()}

    thresholds = {f"threshold {value:g}": page_hinkley.Rule(threshold=value) for value in SETTING["page_hinkley"]}
    deltas = {f"delta {value:g}": adwin.Rule(confidence_delta=value) for value in SETTING["adwin"]}
    return {
        OURS: tried(watched, thresholds),
        "ADWIN": tried(windowed, deltas),
        "MMD": _embeddings(seed, **SETTING["embeddings"]),
    }


def watched(rule: page_hinkley.Rule) -> Callable[[float], bool]:
    state = page_hinkley.Watched()

    def alarm(value: float) -> bool:
        nonlocal state
        state, found = page_hinkley.step(state, value, rule)
        return found

    return alarm


def windowed(rule: adwin.Rule) -> Callable[[float], bool]:
    state = adwin.Window()

    def alarm(value: float) -> bool:
        nonlocal state
        state, found = adwin.step(state, value, rule)
        return found

    return alarm


def run_peers(python: Path, seeds: Sequence[int]) -> dict[str, Any] | None:
    """The same streams through river, in its own environment: one result a seed; None where it is not installed."""
    answers = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="drift-") as folder:
            moving, changes = drifting(seed, **SETTING["drifting"])
            still = {f"still {kind}": runs for kind, runs in stationary(seed, **SETTING["stationary"]).items()}
            arrays = still | {f"moving {kind}": runs for kind, runs in moving.items()}
            np.savez(Path(folder) / "streams.npz", **(arrays | {"changes": changes}), allow_pickle=False)
            request = SETTING["river"] | {"after": SETTING["drifting"]["after"]}
            (Path(folder) / "request.json").write_text(json.dumps(request))
            if not run_peer(python, "river", SCRIPT, Path(folder)):
                return None
            answers.append(json.loads((Path(folder) / "answer.json").read_text()))
    return {"seeds": [{PEER: answer} for answer in answers]}


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:
    """The claim needs the peer; without it the detectors' own figures are shown."""
    numbers = [dict(seed) for seed in results]
    if peers is not None:
        numbers = [ours | theirs for ours, theirs in zip(numbers, peers["seeds"], strict=True)]
    names = [name for name in numbers[0] if name != "MMD"]
    chosen = {name: calibrated([seed[name] for seed in numbers]) for name in names}
    delays = {name: [seed[name][chosen[name]]["delays"] for seed in numbers] for name in names}
    rates = {
        name: {setting: rate([seed[name][setting] for seed in numbers]) for setting in numbers[0][name]}
        for name in names
    }
    figures: dict[str, Any] = {
        "calibrated": chosen,
        "false_alarms_per_10000": rates,
        "median_delays": {name: medians(values) for name, values in delays.items()},
        "embeddings": [seed["MMD"] for seed in results],
    }
    claims = []
    if peers is not None:
        value, low, high = ratio(delays[OURS], delays[PEER])
        figures["peers"] = {PEER: {"setting": chosen[PEER], "median_delays": figures["median_delays"][PEER]}}
        statement = (
            f"Items until a drift is seen by {OURS}, the default, as a share of what {PEER} needs on the same streams "
            "(medians, geometric mean over kinds of drift, at most one false alarm in 10,000)"
        )
        claims = [Claim("drift.delay_ratio_to_river", statement, value, "", "at_most", 1.0, low, high)]
    return Part(NAME, claims, figures, _sections(figures))


def calibrated(seeds: Sequence[Results]) -> str:
    """The quickest setting with at most one false alarm per 10,000 on every kind of stationary stream."""
    settings = list(seeds[0])
    admitted = [name for name in settings if max(rate([seed[name] for seed in seeds]).values()) <= 1]
    if not admitted:
        raise ValueError(f"none of {settings} is quiet enough; widen the grid")
    return min(admitted, key=lambda name: _typical(medians([seed[name]["delays"] for seed in seeds])))


def rate(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """False alarms per 10,000 items by kind of stationary stream, all seeds together."""
    items = len(seeds) * SETTING["stationary"]["runs"] * SETTING["stationary"]["length"]
    return {kind: sum(seed["alarms"][kind] for seed in seeds) * PER / items for kind in seeds[0]["alarms"]}


def medians(seeds: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, float]:
    """Median items to detection by kind of drift, all seeds together."""
    return {kind: float(np.median(np.concatenate([seed[kind] for seed in seeds]))) for kind in seeds[0]}


def ratio(
    ours: Sequence[Mapping[str, Sequence[int]]], theirs: Sequence[Mapping[str, Sequence[int]]], draws: int = 1000
) -> tuple[float, float, float]:
    """Geometric mean over kinds of the ratio of median delays, and its 95 % bootstrap interval over seeds."""
    rng = np.random.default_rng(0)

    def of(chosen: Sequence[int]) -> float:
        left, right = medians([ours[at] for at in chosen]), medians([theirs[at] for at in chosen])
        return _typical(left) / _typical(right)

    values = [of(rng.integers(len(ours), size=len(ours)).tolist()) for _ in range(draws)]
    return of(range(len(ours))), float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def _typical(delays: Mapping[str, float]) -> float:
    return float(np.exp(np.mean(np.log(list(delays.values())))))


def _embeddings(seed: int, *, runs: int, length: int, repeats: int, reference: int, window: int, level: float) -> Any:
    """MMD tests of `window` embeddings of 8 numbers against the first `reference`: false alarms, items to detection."""
    rng = np.random.default_rng((seed, 3))

    def first(stream: Any) -> list[int]:
        starts = range(reference, len(stream) - window + 1, window)
        tests = [(at + window, stream[at : at + window]) for at in starts]
        return [end for end, late in tests if shift(stream[:reference], late, rng, level, permutations=499).drifted]

    alarms = sum(len(first(rng.normal(size=(length, 8)).astype(np.float32))) for _ in range(runs))
    delays: dict[str, list[int]] = {}
    for name, moved, spread in (("mean +.25 sd", 0.25, 1.0), ("mean +.5 sd", 0.5, 1.0), ("spread * .7", 0.0, 0.7)):
        streams = [rng.normal(size=(600, 8)) for _ in range(repeats)]
        for stream in streams:
            stream[reference:] = stream[reference:] * spread + moved
        found = [first(stream.astype(np.float32)) for stream in streams]
        delays[name] = [(ends[0] if ends else 600) - reference for ends in found]
    return {"alarms_per_10000": alarms * PER / (runs * length), "delays": delays}


def _sections(figures: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, dict[str, float]] = figures["median_delays"]
    kinds = list(next(iter(found.values())))
    shown = Figure(figsize=(9, 4), layout="constrained")
    axes = shown.subplots()
    for at, (name, delays) in enumerate(found.items()):
        axes.barh(np.arange(len(kinds)) + 0.25 * at, list(delays.values()), 0.24, label=name)
    axes.set(xscale="log", xlabel="items until the drift is seen (median)")
    axes.set_yticks(np.arange(len(kinds)) + 0.25, kinds)
    axes.invert_yaxis()
    shown.legend(loc="outside upper center", ncols=len(found))
    rows = [(kind, *(delays[kind] for delays in found.values())) for kind in kinds]
    headings = [f"{name}, {figures['calibrated'][name]}" for name in found]
    quiet = [
        (name, setting, *by_kind.values())
        for name, settings in figures["false_alarms_per_10000"].items()
        for setting, by_kind in settings.items()
    ]
    still = list(next(iter(next(iter(figures["false_alarms_per_10000"].values())).values())))
    mmd = figures["embeddings"]
    pooled = medians([seed["delays"] for seed in mmd])
    mean_rate = float(np.mean([seed["alarms_per_10000"] for seed in mmd]))
    return {
        "Items until a drift is seen": report.picture(shown, "median detection delays by kind of drift")
        + report.table(("kind of drift", *headings), rows),
        "False alarms per 10,000 items": report.table(("detector", "setting", *still), quiet),
        "Embeddings (MMD)": f"<p>{mean_rate:.2g} false alarms per 10,000 items.</p>"
        + report.table(("kind of drift", "items until seen (median)"), list(pooled.items())),
    }
