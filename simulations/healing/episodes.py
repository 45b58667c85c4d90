"""One fault on one device: with healing, without, and the same requests where nothing ever went wrong.

An answer is good when the second judge, which no rule uses, sees what was asked and is as sure as it usually is; it
came before its deadline; and asking again gives the same.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.healer import Healer
from edge_agent.healing.incident import Incident
from edge_agent.healing.loop import Rules, State
from edge_agent.reruns import Approval
from edge_agent.serving import Answered
from learning_core.params import Array
from simulations.healing.device import DEADLINE_MS, Broken, SimulatedDevice
from simulations.healing.faults import Fault, Hit, progress
from simulations.healing.student import WEAK, Student

USUAL_WEAK = 0.04  # share of requests for a weak condition
SURE = 0.02  # quantile of the second judge's scores of right answers below which it is not sure
SAME = 0.05  # mean change of a pixel that a second answer may have


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The second judge and how sure it usually is."""

    student: Student
    least: float

    def good(self, answers: Sequence[Answered], again: Sequence[Array]) -> NDArray[np.bool_]:
        """Which answers are good, [N]. `again`: the answers when asked a second time, or none."""
        samples = np.concatenate([each.samples for each in answers])
        wanted = np.array([each.conditions[0] for each in answers])
        scores = self.student.second.logits(np.nan_to_num(np.clip(samples, -1, 1)))
        right = (scores.argmax(axis=1) == wanted) & (scores.max(axis=1) >= self.least)
        in_time = np.array([each.took_ms <= DEADLINE_MS for each in answers])
        same = np.abs(np.concatenate(again) - samples).mean(axis=(1, 2, 3)) <= SAME if again else True
        return np.asarray(right & in_time & same & np.isfinite(samples).all(axis=(1, 2, 3)))


def yardstick(student: Student, seed: int, rows: int = 400) -> Yardstick:
    """See how sure the second judge is of a sound student's answers."""
    device = SimulatedDevice(student, np.random.default_rng(seed))
    wanted = np.arange(rows) % WEAK[0]
    samples = np.concatenate([each.samples for each in device.request(wanted, range(rows))])
    scores = student.second.logits(np.clip(samples, -1, 1))
    return Yardstick(student, float(np.quantile(scores.max(axis=1)[scores.argmax(axis=1) == wanted], SURE)))


@dataclass(frozen=True, slots=True)
class Episode:
    """The share of good answers in each tick, and what healing did; tick 0 is the fault's first."""

    good: NDArray[np.float64]
    incidents: tuple[tuple[int, Incident], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a device: faults from tick 0 on, for so many ticks of so many requests."""

    faults: tuple[Fault, ...]
    ramped: bool
    ticks: int
    requests: int
    seed: int

    def wanted(self, tick: int) -> tuple[NDArray[np.int64], list[int]]:
        """Conditions and seeds of a tick's requests."""
        rng = np.random.default_rng([self.seed, 7, tick + 10_000])
        far = progress(tick, ramped=self.ramped) if tick >= 0 else 0.0
        most = max((fault.weak_share for fault in self.faults), default=0.0)
        weak = rng.random(self.requests) < max(USUAL_WEAK, most * far)
        conditions = np.where(weak, rng.choice(WEAK, self.requests), rng.integers(WEAK[0], size=self.requests))
        if tick >= 0 and any(fault.one_condition for fault in self.faults):
            conditions = np.full(self.requests, self.seed % WEAK[0])
        return conditions.astype(np.int64), [int(each) for each in rng.integers(1 << 31, size=self.requests)]


@dataclass(frozen=True, slots=True)
class Warm:
    """A healthy device that healing has watched for a while."""

    device: SimulatedDevice
    state: State
    approval: Approval | None
    incidents: tuple[Incident, ...]


def healer_of(device: SimulatedDevice, rules: Rules, state: State, approval: Approval | None, seed: int) -> Healer:
    return Healer(device, rules, state, np.random.default_rng([seed, 8]), _forget, approval)


def warmed(student: Student, rules: Rules, ticks: int, requests: int, seed: int) -> Warm:
    """Watch a healthy device; what it took for a fault meanwhile is told."""
    device = SimulatedDevice(student, np.random.default_rng([seed, 9]))
    healer = healer_of(device, rules, State(), None, seed)
    plan = Plan((), ramped=False, ticks=0, requests=requests, seed=seed)
    incidents: list[Incident] = []
    for tick in range(-ticks, 0):
        device.request(*plan.wanted(tick))
        incidents += healer.tick()
    return Warm(device, healer.state, healer.approval, tuple(incidents))


def play(warm: Warm, plan: Plan, measure: Yardstick, rules: Rules | None) -> Episode:
    """Let the plan happen; `rules` None: nobody heals."""
    device = warm.device.fork(np.random.default_rng([plan.seed, 10]))
    healer = healer_of(device, rules, warm.state, deepcopy(warm.approval), plan.seed) if rules is not None else None
    good, incidents = [], []
    for tick in range(plan.ticks):
        _break(device, plan, tick)
        answers = device.request(*plan.wanted(tick))
        again = [device.ask(each.conditions, each.seed).samples for each in answers] if device.broken.unpinned else []
        good.append(float(measure.good(answers, again).mean()))
        if healer is not None:
            incidents += [(tick, incident) for incident in healer.tick()]
    return Episode(np.array(good), tuple(incidents))


def _forget(_state: State, _incidents: Sequence[Incident]) -> None:
    """Nothing outlives a simulation."""


def _break(device: SimulatedDevice, plan: Plan, tick: int) -> None:
    """The faults of this tick; one that was mended does not come back."""
    if tick and progress(tick, ramped=plan.ramped) == progress(tick - 1, ramped=plan.ramped):
        return  # as broken as before, but for what was mended
    broken = Broken()
    for fault in plan.faults:
        if not fault.mended_by & device.mended:
            broken = fault.apply(broken, Hit(device.student, progress(tick, ramped=plan.ramped), plan.seed))
    device.broken = broken
