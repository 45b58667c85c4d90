"""Split-digits: five tasks of two digits, an MLP 64-64-10, a memory of 100 samples, each sample seen five times."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from learning_core.metrics import stages
from simulations import report
from simulations.bench.continual.part import Part, mean_and_spread, run_peer
from simulations.bench.continual.stream_memory import HIDDEN, MEMORY, VECTORS
from simulations.bench.continual.stream_methods import BATCH, DRAWN, REHEARSED
from simulations.bench.continual.stream_runs import CURRICULA, EPOCHS, METHODS, PLAIN_RATE, matrices, matrix
from simulations.bench.continual.streams import CLASSES, Setting, split_digits
from simulations.report import Claim

NAME = "digits"
NEEDS_DATA = False
OURS = "condensed replay"
SETTINGS: tuple[Setting, ...] = ("class", "domain", "task")
FIRST = 100  # rates and sizes were chosen on seeds 0 to 4, so what is reported is of others
SETTING: dict[str, Any] = {
    "first": FIRST,
    "sizes": (HIDDEN, MEMORY, VECTORS, BATCH, REHEARSED, DRAWN, EPOCHS),
    "methods": {name: str(method) for name, method in (METHODS | CURRICULA).items()},
    "peers": SETTINGS,
}
CONDITIONS = (
    f"Same splits, MLP 64-{HIDDEN}-10, {EPOCHS} passes in batches of {BATCH}, a memory of {MEMORY} samples or as many"
    " numbers. Plain gradient descent at 0.1 for Avalanche's strategies and ours, Adam for condensed replay and joint"
    f" training. Ours rehearse {REHEARSED} samples a step, condensed replay {DRAWN} drawn ones, Avalanche's {BATCH}."
    " Task-incremental figures are of the class-incremental models, told which two digits are in question when asked;"
    " nobody has a head for each task."
)
AVALANCHE = ("naive", "EWC", "LwF", "SI", "A-GEM", "GDumb", "replay", "GEM", "DER++", "ER-ACE")
HEADINGS: dict[Setting, str] = {
    "class": "one head of ten",
    "domain": "odd or even",
    "task": "which two are in question is told when asking",
}
Spread = tuple[float, float, float]
METRICS = {
    "average accuracy": stages.average_accuracy,
    "forgetting": stages.forgetting,
    "backward transfer": stages.backward_transfer,
    "forward transfer": stages.forward_transfer,
    "average incremental accuracy": stages.average_incremental_accuracy,
    "worst accuracy": stages.worst_accuracy,
}


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:  # noqa: ARG001 - the parts share one signature
    """R of every method in every setting, and of every curriculum where classes arrive one after another."""
    classes, domains, told = (split_digits(setting, FIRST + seed) for setting in SETTINGS)
    found: dict[str, dict[str, Any]] = {"class": {}, "domain": {}, "task": {}, "curricula": {}}
    for name, method in METHODS.items():
        found["class"][name], found["task"][name] = matrices(classes, method, FIRST + seed, (classes, told))
        found["domain"][name] = matrix(domains, method, FIRST + seed)
    found["curricula"] = {name: matrix(classes, method, FIRST + seed) for name, method in CURRICULA.items()}
    return found


def run_peers(python: Path, seeds: Sequence[int]) -> dict[str, Any] | None:
    """R of Avalanche's strategies in every setting, for each seed; None where it is not installed."""
    script = Path(__file__).parent / "peers" / "avalanche_digits.py"
    with tempfile.TemporaryDirectory(prefix="avalanche-") as name:
        folder, arrays = Path(name), {}
        for seed in seeds:
            tasks = split_digits("class", FIRST + seed)
            axes = {name: [getattr(task, name).numpy() for task in tasks] for name in ("x", "y", "test_x", "test_y")}
            arrays[str(seed)] = str(folder / f"{seed}.npz")
            x, y, test_x, test_y = (np.concatenate(parts) for parts in axes.values())
            np.savez(arrays[str(seed)], train_x=x, train_y=y, test_x=test_x, test_y=test_y)
        request = {
            "seeds": list(seeds),
            "arrays": arrays,
            "tasks": [list(classes) for classes in CLASSES],
            "strategies": list(AVALANCHE),
            "hidden": HIDDEN,
            "learning_rate": PLAIN_RATE,
            "batch": BATCH,
            "epochs": EPOCHS,
            "memory": MEMORY,
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        if not run_peer(python, "avalanche", script, folder / "request.json", folder / "answer.json"):
            return None
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_bytes())
        return answer


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:
    by_setting = {setting: _by_method(results, setting) for setting in SETTINGS}
    rows = {setting: metrics_of(methods) for setting, methods in by_setting.items()}
    ours = by_setting["class"]
    final = [final_accuracy(r) for r in ours[OURS]]
    mean, low, high = mean_and_spread(final)
    claims = [
        Claim(
            "continual.digits.accuracy",
            f"Split-digits, class-incremental, memory as large as {MEMORY} samples: accuracy after five tasks",
            mean,
            "share",
            "at_least",
            0.947,
            low,
            high,
        )
    ]
    curricula = {name: [result["curricula"][name] for result in results] for name in CURRICULA}
    figures: dict[str, Any] = {"matrices": by_setting, "metrics": rows, "curricula": gained(ours, curricula)}
    if peers:
        best, values = _best(peers["class"])
        lead, lead_low, lead_high = mean_and_spread(list(np.array(final) - np.array(values)))
        claims.append(
            Claim(
                "continual.digits.lead_over_avalanche",
                f"ahead of Avalanche's best strategy ({best}) on the same seeds",
                lead,
                "share",
                "at_least",
                0.01,
                lead_low,
                lead_high,
            )
        )
        accuracy = {
            setting: {name: [final_accuracy(r) for r in rs] for name, rs in peers[setting].items()}
            for setting in SETTINGS
        }
        figures["peers"] = {"avalanche": {"matrices": peers, "accuracy": accuracy}}
        figures["leads"] = {setting: lead_of(by_setting[setting], peers[setting]) for setting in SETTINGS}
    sections = {}
    for setting, heading in HEADINGS.items():
        bars = {f"{name} (ours)": rs for name, rs in by_setting[setting].items()}
        bars |= {f"{name} (Avalanche)": rs for name, rs in (peers[setting] if peers else {}).items()}
        finals = {name: [final_accuracy(r) for r in rs] for name, rs in bars.items()}
        conditions = f"<p>{CONDITIONS}</p>" if setting == "class" else ""
        sections[f"accuracy after five tasks, {heading}"] = conditions + _bars(finals)
    for setting in SETTINGS:
        sections[f"{setting}-incremental"] = metrics_table(rows[setting])
    sections["does a curriculum help?"] = report.table(
        ("method and curriculum", "accuracy gained by it (paired)"),
        [(name, f"{mean:.3f} ({low:.3f} to {high:.3f})") for name, (mean, low, high) in figures["curricula"].items()],
    )
    return Part(NAME, claims, figures, sections)


def gained(plain: Mapping[str, list[Any]], curricula: Mapping[str, list[Any]]) -> dict[str, Spread]:
    """By curriculum, what it adds to the final accuracy of its own method on the same seeds."""
    return {
        name: mean_and_spread(
            [
                final_accuracy(one) - final_accuracy(other)
                for one, other in zip(rs, plain[name.split(",")[0]], strict=True)
            ]
        )
        for name, rs in curricula.items()
    }


def lead_of(ours: Mapping[str, list[Any]], peers: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Our best method of a setting against Avalanche's best, paired by seed; the best are those of the mean."""
    one, mine = _best({name: rs for name, rs in ours.items() if name != "joint"})
    other, theirs = _best(peers)
    return {"ours": one, "avalanche": other, "lead": mean_and_spread(list(np.array(mine) - np.array(theirs)))}


def _best(methods: Mapping[str, list[Any]]) -> tuple[str, list[float]]:
    finals = {name: [final_accuracy(r) for r in rs] for name, rs in methods.items()}
    best = max(finals, key=lambda name: float(np.mean(finals[name])))
    return best, finals[best]


def metrics_of(methods: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """(mean, low, high) of each metric by method, from the matrices R of every seed."""
    return {
        name: {metric: mean_and_spread([f(np.array(r)) for r in rs]) for metric, f in METRICS.items()}
        for name, rs in methods.items()
        if len(rs[0]) > 2  # joint training has one stage only
    }


def metrics_table(metrics: dict[str, dict[str, Any]]) -> str:
    listed = [
        [name, *(f"{mean:.3f} ± {high - mean:.3f}" for mean, _, high in row.values())] for name, row in metrics.items()
    ]
    return report.table(["method", *METRICS], listed)


def final_accuracy(r: list[list[float]]) -> float:
    """Mean over tasks after the last stage, also for joint training, which has but one."""
    return float(np.mean(r[-1]))


def _by_method(results: Sequence[dict[str, Any]], setting: str) -> dict[str, list[Any]]:
    return {name: [result[setting][name] for result in results] for name in results[0][setting]}


def _bars(values: dict[str, list[float]]) -> str:
    order = sorted(values, key=lambda name: float(np.mean(values[name])))
    figure = Figure(figsize=(8, 0.32 * len(order) + 0.8))
    axes = figure.subplots()
    means = [mean_and_spread(values[name]) for name in order]
    colours = ["tab:blue" if "ours" in name else "tab:gray" for name in order]
    axes.barh(order, [m for m, _, _ in means], xerr=[h - m for m, _, h in means], color=colours)
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean accuracy over the five tasks, after the last (95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    return report.picture(figure, "Bars of final accuracy by method, ours and Avalanche's")
