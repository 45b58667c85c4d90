"""Claim: an agent answers about as fast as the bare session, also while it learns and while adapters change.

Everything is measured here and now, in turns with what it is compared with, on real ONNX Runtime sessions; the weights
are random, since only time counts.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge_agent.drivers.overhead import Pair, overhead
from simulations import report
from simulations.bench.rounds import interval, median
from simulations.bench.serve_idle import Footprint, watch_agent
from simulations.bench.serve_language import DEPTH, Size, Turns, time_sizes
from simulations.bench.serve_pictures import slow_answers, speed_by_size
from simulations.bench.serve_requests import Swaps, ask_during_swaps, time_pairs
from simulations.bench.serve_training import Blocks, time_blocks
from simulations.bench.serve_world import make_release
from simulations.report import Claim

STRETCHES = 30
LEAST_CORES = 0.5  # that the learner has to have got for its company to mean anything
UNKNOWN = (0.0, 100.0)
CLAIMED = Size(width=384, length=64)  # 11 million weights, a sentence at once: what people run on small devices


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each is measured."""

    pairs: int = 1500
    requests: int = 10_000
    swaps: int = 100
    blocks: int = 6
    block_s: float = 5.0
    settle_s: float = 35.0
    windows: int = 8
    window_s: float = 5.0
    widths: tuple[int, ...] = (128, 256, 384, 512)
    lengths: tuple[int, ...] = (16, 64, 128)
    turns: int = 15


QUICK = Plan(
    pairs=60,
    requests=300,
    swaps=10,
    blocks=2,
    block_s=0.5,
    settle_s=1.0,
    windows=2,
    window_s=1.0,
    widths=(CLAIMED.width,),
    lengths=(CLAIMED.length,),
    turns=4,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a plan."""

    pairs: Sequence[Pair]
    swaps: Swaps
    blocks: Blocks
    footprint: Footprint
    language: Sequence[Turns]


def measure(plan: Plan, progress: Callable[[str], None]) -> Measured:
    with tempfile.TemporaryDirectory(prefix="serve-") as name:
        folder = Path(name)
        progress("a release is made")
        release, _ = make_release(folder)
        footprint = watch_agent(folder / "agent", plan.settle_s, plan.windows, plan.window_s, progress)
        blocks = time_blocks(folder / "learning", release, plan.blocks, plan.block_s, progress)
        progress("samples are drawn by the session alone and by the agent, in turns")
        pairs = time_pairs(release, plan.pairs)
        progress("adapters are exchanged while others ask")
        swaps = ask_during_swaps(release, plan.requests, plan.swaps)
    return Measured(pairs, swaps, blocks, footprint, time_sizes(plan.widths, plan.lengths, plan.turns, progress))


def claims(found: Measured) -> list[Claim]:
    slower = slowdown(found.blocks)
    held, foot = found.swaps, found.footprint
    speed = [ratio for turns in found.language if turns.size == CLAIMED for ratio in turns.ratios]
    bad, asked = held.failed + held.wrong, f"of {held.requests} requests across {len(held.held_ms)} swaps"
    size = f"{CLAIMED.width} wide, {CLAIMED.length} bytes"
    statements = {
        "overhead": "What the agent adds to the bare session, median",
        "slow": "The 99th percentile while it learns, in that of an idle device",
        "bad": f"Failed or answered by a wrong version, {asked}",
        "held": "The longest that a swap held a request",
        "rss": "Memory of an agent without a learner",
        "core": "Its share of one core, looking at the device once a second",
        "speed": f"Integers with an adapter beside float32 with one, language model {size}",
    }
    return [
        Claim(
            "serve.overhead_p50",
            statements["overhead"],
            overhead(found.pairs),
            "share",
            "at_most",
            0.10,
            *overhead_interval(found.pairs),
        ),
        Claim(
            "serve.p99_while_training",
            statements["slow"],
            slower,
            "times",
            "at_most",
            1.5,
            *slowdown_interval(found.blocks),
        ),
        Claim("serve.failed_requests", statements["bad"], bad, "requests", "at_most", 0),
        Claim(
            "serve.swap_ms",
            statements["held"],
            max(held.held_ms),
            "ms",
            "at_most",
            1,
            max(held.held_core_ms),
            max(held.held_ms),
        ),
        Claim("serve.agent_rss_mb", statements["rss"], max(foot.rss_mb), "MB", "at_most", 150, *_ends(foot.rss_mb)),
        Claim(
            "serve.agent_cpu_share",
            statements["core"],
            float(np.mean(foot.core_share)),
            "cores",
            "at_most",
            0.01,
            *interval(foot.core_share, _mean),
        ),
        Claim(
            "serve.int8_speedup",
            statements["speed"],
            median(speed),
            "times",
            "at_least",
            2,
            *interval(speed, median),
        ),
    ]


def overhead_interval(pairs: Sequence[Pair], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval over stretches of pairs: what else the machine does comes and goes more slowly."""
    size = max(1, len(pairs) // STRETCHES)
    stretches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(500):
        chosen = rng.integers(len(stretches), size=len(stretches))
        drawn.append(overhead([pair for at in chosen for pair in stretches[at]]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def slowdown(blocks: Blocks) -> float:
    """The 99th percentile of all training blocks in that of all idle ones."""
    return _p99(blocks.training_ms) / _p99(blocks.idle_ms)


def slowdown_interval(blocks: Blocks, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval over blocks, which are what the machine's moods come in; `UNKNOWN` if nobody learned."""
    if blocks.learner_cores < LEAST_CORES:
        return UNKNOWN
    rng, count = np.random.default_rng(seed), len(blocks.idle_ms)
    drawn = []
    for _ in range(500):
        chosen = rng.integers(count, size=count)
        idle, training = ([kind[at] for at in chosen] for kind in (blocks.idle_ms, blocks.training_ms))
        drawn.append(_p99(training) / _p99(idle))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def run(out: Path, *, quick: bool, as_json: bool = False) -> None:
    """Measure, and write the report."""
    console, began_s = Console(stderr=True, quiet=as_json), time.monotonic()
    plan = QUICK if quick else Plan()
    found = measure(plan, console.print)  # a line for each part: something that turns would take its share of a core
    made = claims(found)
    figures = figures_of(found) | {"plan": asdict(plan), "seconds": time.monotonic() - began_s, "simulated": False}
    content = report.document(made, figures, {}, [0])
    report.write(out, content, _page(made, found, figures))
    report.show(made, out, content, as_json=as_json)


def figures_of(found: Measured) -> dict[str, Any]:
    """Everything else there is to say in numbers."""
    blocks = found.blocks
    return {
        "bare_p50_ms": median([pair.bare_ms for pair in found.pairs]),
        "agent_p50_ms": median([pair.agent_ms for pair in found.pairs]),
        "overhead_in_core_time": median([pair.agent_core_ms / pair.bare_core_ms for pair in found.pairs]) - 1,
        "idle_ms": {"p50": _at(blocks.idle_ms, 0.5), "p99": _p99(blocks.idle_ms)},
        "training_ms": {"p50": _at(blocks.training_ms, 0.5), "p99": _p99(blocks.training_ms)},
        "learner": {"scheduling": blocks.scheduling, "cores": blocks.learner_cores},
        "swaps": {"failed": found.swaps.failed, "wrong": found.swaps.wrong, "held_p50_ms": median(found.swaps.held_ms)},
        "agent": {"rss_mb": list(found.footprint.rss_mb), "core_share": list(found.footprint.core_share)},
        "language": [
            {
                **asdict(turns.size),
                "depth": DEPTH,
                "float32_ms": median(turns.float_ms),
                "int8_ms": median(turns.int8_ms),
                "speedup": median(turns.ratios),
                "interval": list(interval(turns.ratios, median)),
            }
            for turns in found.language
        ],
    }


def _page(made: list[Claim], found: Measured, figures: Mapping[str, Any]) -> str:
    lead = (
        "<p>A student of the demo's size (3 blocks, 64 wide, 10 steps with guidance) and byte models of six blocks, "
        "in ONNX Runtime with one thread; the weights are random. What is compared took turns in the same run. Where "
        "an interval straddles its target, this machine was too busy to tell.</p>"
    )
    rows: list[tuple[object, ...]] = [
        ("one sample, the bare session, median", figures["bare_p50_ms"], "ms"),
        ("one sample, the agent, median", figures["agent_p50_ms"], "ms"),
        ("what the agent adds in core time, median", figures["overhead_in_core_time"], "share"),
        ("99th percentile, the learner stands still", figures["idle_ms"]["p99"], "ms"),
        (f"99th percentile, the learner at work ({found.blocks.scheduling})", figures["training_ms"]["p99"], "ms"),
        ("what the learner got meanwhile", found.blocks.learner_cores, "cores"),
        ("how long a swap holds requests, median", figures["swaps"]["held_p50_ms"], "ms"),
    ]
    language = [
        (each["width"], each["length"], each["float32_ms"], each["int8_ms"], each["speedup"])
        for each in figures["language"]
    ]
    sections = {
        "Claims": report.claims_table(made),
        "While it learns": report.picture(
            slow_answers(found.blocks), "shares of requests that took longer than so many milliseconds, log axes"
        ),
        "Integers": report.picture(speed_by_size(found.language), "speed-up over bytes read, a line for each width")
        + report.table(("width", "bytes", "float32, core ms", "int8, core ms", "times"), language),
        "Figures": report.table(("", "measured", "unit"), rows),
    }
    return report.page("How an agent answers", lead, sections)


def _p99(blocks: Sequence[Sequence[float]]) -> float:
    return _at(blocks, 0.99)


def _at(blocks: Sequence[Sequence[float]], share: float) -> float:
    return float(np.quantile(np.concatenate([np.asarray(block) for block in blocks]), share))


def _mean(values: Any) -> float:
    return float(np.mean(values))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
