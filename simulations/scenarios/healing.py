"""Claim: a device finds what makes its answers bad, names it, mends it in three ticks, and leaves alone what is well.

The student is real, trained on scikit-learn's digits and run in ONNX Runtime; the healing is the agent's own. Faults,
requests and the time that a pass takes are simulated. A second judge, which no rule uses, says which answers are good.
"""

import logging
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_agent.healing.loop import Rules
from edge_agent.healing.signals import EXACT, Signal
from edge_agent.healing.thresholds import FLOORS, limit
from simulations import report
from simulations.healing.episodes import Plan, Warm, Yardstick, play, warmed, yardstick
from simulations.healing.faults import FAULTS, PAIRS, RAMP_TICKS
from simulations.healing.page import page
from simulations.healing.scoring import Quiet, Result, claims, recovery
from simulations.healing.student import Student, student

HARMLESS = ("benign LoRA", "one condition", "none")
QUIET = (("none", False, 0.5), ("benign LoRA", False, 0.2), ("benign LoRA", True, 0.2), ("one condition", False, 0.1))
ABLATED = ("drifting input", "throttle", "lost condition")  # what signals that are not exact have to find


@dataclass(frozen=True, slots=True)
class Setting:
    """One run. `students`: how many are trained; seeds share them in turn. `quiet_ticks`: of each seed, unharmed."""

    seeds: int = 8
    first_seed: int = 0
    students: int = 2
    train_steps: int = 400
    judge_epochs: int = 20
    warm_up: int = 40
    ticks: int = 16  # of a sudden fault; a ramped one gets its ramp besides
    quiet_ticks: int = 400
    requests: int = 10
    faults: tuple[str, ...] = tuple(name for name in FAULTS if name not in HARMLESS)
    pairs: bool = True
    ablation: bool = True

    def student_seed(self, seed: int) -> int:
        """Which student a seed breaks."""
        return 1000 + (seed - self.first_seed) % self.students + self.first_seed

    def only(self, faults: Sequence[str]) -> "Setting":
        """Without the others, and without pairs."""
        return replace(self, faults=tuple(faults), pairs=False)


@dataclass(frozen=True, slots=True)
class World:
    """A healthy device under watch, and the eyes that score it."""

    seed: int
    warm: Warm
    measure: Yardstick


def world_of(seed: int, setting: Setting, rules: Rules, made: Student) -> World:
    logging.getLogger("edge_agent.healer").setLevel(logging.ERROR)  # which remedies failed is in the report
    return World(seed, warmed(made, rules, setting.warm_up, setting.requests, seed), yardstick(made, seed))


def episodes(world: World, setting: Setting, rules: Rules) -> list[Result]:
    """Every fault, sudden and ramped, and the pairs."""
    singles = [((name,), ramped) for name in setting.faults for ramped in (False, True)]
    together = [(pair, False) for pair in PAIRS] if setting.pairs else []
    nothing = Plan((), False, setting.ticks + RAMP_TICKS, setting.requests, world.seed)
    unharmed = play(world.warm, nothing, world.measure, None).good
    found = []
    for names, ramped in (*singles, *together):
        faults = tuple(FAULTS[name] for name in names)
        plan = replace(nothing, faults=faults, ramped=ramped, ticks=setting.ticks + (RAMP_TICKS if ramped else 0))
        unhealed = play(world.warm, plan, world.measure, None).good
        healed = play(world.warm, plan, world.measure, rules)
        found.append(Result(" + ".join(names), plan, unharmed[: plan.ticks], unhealed, healed))
    return found


def quiet(world: World, setting: Setting, rules: Rules) -> Quiet:
    """Nothing happens for long, honest learning changes the weights at once or slowly, all ask for one condition."""
    seen = [Quiet(0, sum(i.acted for i in world.warm.incidents), len(world.warm.incidents))]
    for name, ramped, share in QUIET:
        plan = Plan((FAULTS[name],), ramped, round(share * setting.quiet_ticks), setting.requests, world.seed)
        episode = play(world.warm, plan, world.measure, rules)
        acted = sum(incident.acted for _, incident in episode.incidents)
        seen.append(Quiet(plan.ticks, acted, len(episode.incidents)))
    return _together(seen)


def ablation(setting: Setting, made: Sequence[Student]) -> list[dict[str, Any]]:
    """Other thresholds, on faults that only inexact signals show first. Fixed ones come from another student."""
    rules = Rules()
    other = warmed(made[-1], rules, setting.warm_up, setting.requests, 99)
    fixed = {
        signal: limit(window.first, rules.rule, rules.rule.anchored_spread, FLOORS[signal])
        for signal, window in other.state.windows.items()
        if signal not in EXACT
    }
    fixed = {signal: fixed.get(signal, float("inf")) for signal in Signal}
    kinds = {
        "percentile, 2 of 3 (as shipped)": rules.rule,
        "percentile, 1 of 1": replace(rules.rule, needed=1, of=1),
        "fixed, 2 of 3": replace(rules.rule, fixed=fixed),
    }
    few = replace(
        setting, seeds=min(2, setting.seeds), faults=ABLATED, pairs=False, quiet_ticks=setting.quiet_ticks // 4
    )
    rows = []
    for name, rule in kinds.items():
        these = Rules(rule=rule)
        results, calm = [], []
        for seed in range(few.first_seed, few.first_seed + few.seeds):
            world = world_of(seed, few, these, made[0])
            results += episodes(world, few, these)
            calm.append(quiet(world, few, these))
        harmful = [each for each in results if each.is_harmful]
        found = [each.detected_at for each in harmful if each.detected_at is not None]
        all_calm = _together(calm)
        rows.append(
            {
                "rule": name,
                "found": len(found),
                "harmful": len(harmful),
                "mean_tick": sum(found) / len(found) if found else None,
                "looked_per_1000": 1000 * all_calm.looked / max(1, all_calm.ticks),
                "acted_per_1000": 1000 * all_calm.acted / max(1, all_calm.ticks),
            }
        )
    return rows


def one_seed(setting: Setting, seed: int, cache: Path) -> tuple[list[Result], Quiet, float]:
    """All of one seed, and the CPU seconds it took."""
    began_s = time.process_time()
    made = student(setting.train_steps, setting.student_seed(seed), cache, setting.judge_epochs)
    world = world_of(seed, setting, Rules(), made)
    return episodes(world, setting, Rules()), quiet(world, setting, Rules()), time.process_time() - began_s


def run(out: Path, setting: Setting, jobs: int = 1, *, as_json: bool = False, cache: Path | None = None) -> None:
    """Train or find the students, let everything go wrong, and write the report."""
    console = Console(stderr=True, quiet=as_json)
    began, began_cpu, folder = time.monotonic(), time.process_time(), cache or out / "cache"
    numbers = range(setting.first_seed, setting.first_seed + setting.seeds)
    with console.status("the students learn digits"):
        seeds = sorted({*map(setting.student_seed, numbers)})
        made = [student(setting.train_steps, seed, folder, setting.judge_epochs) for seed in seeds]
    results, calm, cpu_s = [], [], 0.0
    for seed, (found, still, took_s) in zip(numbers, _each_seed(setting, numbers, folder, jobs), strict=True):
        results += found
        calm.append(still)
        cpu_s += took_s if jobs > 1 else 0.0
        console.print(f"seed {seed}: {len(results)} episodes, {time.monotonic() - began:.0f} s")
    compared = ablation(setting, made) if setting.ablation else []
    checked = claims(results, _together(calm))
    figures = {
        "setting": {name: getattr(setting, name) for name in Setting.__slots__},
        "quiet": {name: getattr(_together(calm), name) for name in Quiet.__slots__},
        "episodes": [_row(each) for each in results],
        "ablation": compared,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - began_cpu + cpu_s,
        "simulated": True,
    }
    content = report.document(checked, figures, {}, list(numbers))
    report.write(out, content, page(checked, results, figures))
    report.show(checked, out, content, as_json=as_json)


def _each_seed(
    setting: Setting, numbers: Iterable[int], cache: Path, jobs: int
) -> Iterator[tuple[list[Result], Quiet, float]]:
    one = partial(one_seed, setting, cache=cache)
    if jobs == 1:
        yield from map(one, numbers)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one, numbers)


def _together(parts: Sequence[Quiet]) -> Quiet:
    return Quiet(*(sum(getattr(part, name) for part in parts) for name in Quiet.__slots__))


def _row(result: Result) -> dict[str, Any]:
    return {
        "fault": result.name,
        "ramped": result.plan.ramped,
        "seed": result.plan.seed,
        "harmful": result.is_harmful,
        "harm_at": result.harm_at,
        "detected_at": result.detected_at,
        "named": sorted(result.named),
        "right": result.is_right,
        "recovered_after": recovery(result),
        "gap": result.gap,
        "unharmed": float(result.unharmed.mean()),
        "unhealed_last": float(result.unhealed[-10:].mean()),
        "healed_last": float(result.healed.good[-10:].mean()),
        "remedies": [[each.cause, each.remedy, each.worked] for _, i in result.acted for each in i.tried],
    }
