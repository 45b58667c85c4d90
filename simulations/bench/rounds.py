"""Claim: a query-and-train round of three devices takes a fraction of a second, and of what stock Flower needs.

Ours: one fog and three devices as processes of their own, TLS, a key each, two exchanges a round. Stock Flower: one
exchange a round (FedAvg's train), no TLS, no keys, so the ratio leans towards it.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from simulations import report
from simulations.bench.fog_and_device import PAYLOADS
from simulations.bench.small_fleet import SmallFleet
from simulations.bench.stock_flower import StockFlower
from simulations.report import Claim

DEVICES = 3
WARM_UP = 3
STOCK_ROUNDS = 4


def time_rounds(out: Path, count: int, stock: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of `count` of our rounds and, if `stock`, of STOCK_ROUNDS of Flower's, taking turns; memory and bytes."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rounds-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        progress("the adapter's rounds")
        with SmallFleet(folder / "adapter", DEVICES, "adapter") as fleet:
            adapter = _played(fleet, 1, WARM_UP + count // 2)[WARM_UP:]
        progress("a fog and three devices")
        fleet = stack.enter_context(SmallFleet(folder / "array", DEVICES, "one array"))
        _played(fleet, 1, WARM_UP)
        flower = None
        if stock:
            progress("stock Flower: a SuperLink and three SuperNodes")
            flower = stack.enter_context(StockFlower(folder / "stock", DEVICES))
            flower.play_round()
        began, bytes_before = time.monotonic(), fleet.ask(do="traffic")
        ours: list[dict[str, float]] = []
        theirs: list[float] = []
        for turn in range(STOCK_ROUNDS):
            progress(f"turn {turn + 1} of {STOCK_ROUNDS}")
            share = count * (turn + 1) // STOCK_ROUNDS - len(ours)
            ours += _played(fleet, WARM_UP + len(ours) + 1, share)
            if flower:
                theirs.append(flower.play_round())
        bytes_after = fleet.ask(do="traffic")
        return {
            "rounds": ours,
            "adapter_rounds": adapter,
            "flower_s": theirs,
            "memory_mb": _memory_mb(fleet),
            "bytes_per_round": {key: (bytes_after[key] - bytes_before[key]) / count for key in bytes_after},
            "seconds": time.monotonic() - began,
        }


def _played(fleet: SmallFleet, first: int, count: int) -> list[dict[str, float]]:
    rounds = [fleet.ask(do="round", number=number) for number in range(first, first + count)]
    assert all(played["trained"] == DEVICES for played in rounds), "a device did not take part"
    return rounds


def _memory_mb(fleet: SmallFleet) -> dict[str, float]:
    """Resident megabytes (1e6 bytes) of the fog and of the largest device."""
    assert fleet.fog is not None
    sizes = [psutil.Process(member.pid).memory_info().rss / 1e6 for member in fleet.members.values()]
    return {"fog": psutil.Process(fleet.fog.pid).memory_info().rss / 1e6, "device": max(sizes)}


def interval(values: Sequence[float], figure: Callable[[Any], float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a figure (Efron 1979, percentile method)."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(values), (2000, len(values)))
    low, high = np.quantile([figure(row) for row in drawn], (0.025, 0.975))
    return float(low), float(high)


def p95(values: Any) -> float:
    return float(np.quantile(values, 0.95))


def median(values: Any) -> float:
    return float(np.median(values))


def claims(measured: Mapping[str, Any]) -> list[Claim]:
    seconds = [played["seconds"] for played in measured["rounds"]]
    found = [
        Claim("rounds.median_s", "A round's median", median(seconds), "s", "at_most", 0.6, *interval(seconds, median)),
        Claim("rounds.p95_s", "A round's 95th percentile", p95(seconds), "s", "at_most", 1.2, *interval(seconds, p95)),
    ]
    if flower := measured["flower_s"]:
        ratio, ours = median(flower) / median(seconds), interval(seconds, median)
        theirs = interval(flower, median)
        statement = "Stock Flower's round, in rounds of ours"
        bounds = (theirs[0] / ours[1], theirs[1] / ours[0])
        found.append(Claim("rounds.ratio_to_flower", statement, ratio, "times", "at_least", 12, *bounds))
    return found


def run(out: Path, count: int, stock: bool, *, as_json: bool = False) -> None:
    """Measure, and write the report."""
    console = Console(stderr=True, quiet=as_json)
    with console.status("starting") as status:
        measured = time_rounds(out, count, stock, status.update)
    found = claims(measured)
    adapter = [played["seconds"] for played in measured["adapter_rounds"]]
    figures = {
        **{key: value for key, value in measured.items() if key != "flower_s"},
        "devices": DEVICES,
        "payload_bytes": {name: 4 * sum(int(np.prod(shape)) for shape in it.values()) for name, it in PAYLOADS.items()},
        "adapter_median_s": median(adapter),
        "adapter_p95_s": p95(adapter),
        "simulated": False,
    }
    flower = measured["flower_s"]
    what = "one round of FedAvg, train only, without TLS and keys"
    peers = {"flower": {"what": what, "seconds": flower, "median_s": median(flower)}} if flower else {}
    content = report.document(found, figures, peers, [0])
    report.write(out, content, _page(found, measured, figures))
    report.show(found, out, content, as_json=as_json)


def _page(found: list[Claim], measured: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    lead = (
        "<p>One fog and three devices on loopback, each a process, TLS with a key per device. A round asks all how "
        "they are, sends 400 kB to each, and adds up the 400 kB that come back; the training itself is trivial. "
        "Stock Flower's round is FedAvg's: only the sending and the adding up, without TLS and keys.</p>"
    )
    memory, per_round = measured["memory_mb"], measured["bytes_per_round"]
    rows: list[tuple[object, ...]] = [
        ("query, median", 1e3 * median([played["query_s"] for played in measured["rounds"]]), "ms"),
        ("train, median", 1e3 * median([played["train_s"] for played in measured["rounds"]]), "ms"),
        ("round with the demo's adapter (77 kB), median", 1e3 * figures["adapter_median_s"], "ms"),
        ("fog's memory", memory["fog"], "MB"),
        ("a device's memory, without a model", memory["device"], "MB"),
        ("from devices in a round", per_round["received"] / 1e3, "kB"),
        ("to devices in a round", per_round["sent"] / 1e3, "kB"),
    ]
    sections = {
        "Claims": report.claims_table(found),
        "Every round": report.picture(
            _dots(measured), "seconds of every round, ours and stock Flower's, on a log axis"
        ),
        "Figures": report.table(("", "measured", "unit"), rows),
    }
    return report.page("How long a round takes", lead, sections)


def _dots(measured: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second to import

    figure = Figure(figsize=(7.5, 3.2))
    axes = figure.subplots()
    kinds = {
        "Dewfall, 400 kB": [played["seconds"] for played in measured["rounds"]],
        "Dewfall, adapter": [played["seconds"] for played in measured["adapter_rounds"]],
        "stock Flower, 400 kB": measured["flower_s"],
    }
    colours = ("#12715b", "#2a7f9e", "#c0592b")
    for row, (seconds, colour) in enumerate(zip(kinds.values(), colours, strict=True)):
        axes.plot(seconds, row + np.linspace(-0.25, 0.25, len(seconds)), ".", color=colour)
    axes.set(xscale="log", xlabel="seconds a round", yticks=range(len(kinds)), yticklabels=list(kinds))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure
