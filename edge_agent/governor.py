"""Whether the device may train now, and how much of a job. Pure: a table of cases tests it."""

import datetime
import math
from dataclasses import dataclass, field

from edge_agent.budget import Cost
from edge_agent.comfort import against_comfort
from edge_agent.config import Limits
from edge_agent.evidence import hidden, is_on
from edge_agent.forecast import Trend
from edge_agent.heat import against_heat, ceiling_c, cool_again_c
from edge_agent.values import Action, Decision, Reason, Telemetry

LEAST_EFFORT = 0.25
CHARGE_ROOM = 0.1  # this much above the least charge, the battery no longer shortens a job


@dataclass(frozen=True, slots=True)
class Situation:
    """What the device knows of itself besides its telemetry."""

    paused: bool
    can_learn: bool
    budget_left: bool
    release: int | None
    samples: int
    forced: bool = False
    own_share: float = 0.0  # of all cores' time, what the learner takes now
    spent: Cost = field(default_factory=Cost)  # today
    round_bytes: int = 0  # what a round would add to it
    local: datetime.datetime | None = None  # on the device's own clock
    trend: Trend | None = None
    dwelt_s: float = math.inf  # since the action last changed


def decide(telemetry: Telemetry, limits: Limits, situation: Situation, previous: Decision | None = None) -> Decision:
    """The first reason against training, or none. `previous` gives heat and memory their hysteresis.

    Force silences what is about comfort: the owner's limits on heat below the trip point, charge, quiet and the like.
    It cannot silence the trip point, an unknown temperature, a weak supply, full memory or a day's cap.
    """
    against = (
        _of_people(situation)
        or against_heat(telemetry, limits, situation.trend, previous, forced=situation.forced)
        or _of_supply(telemetry, limits)
        or _of_memory(telemetry, limits, previous)
        or _of_caps(situation, limits)
        or (None if situation.forced else against_comfort(telemetry, limits, situation.own_share, situation.local))
        or _of_work(situation, limits)
        or _of_dwell(situation, limits, previous)
    )
    if against is not None:
        return against
    if situation.forced:
        return Decision(Action.TRAIN, Reason.FORCED, "a person asked for training whatever the limits for comfort say")
    sentence = "nothing stands against training"
    return Decision(Action.TRAIN, Reason.READY, sentence, effort(telemetry, limits))


def effort(telemetry: Telemetry, limits: Limits) -> float:
    """Which share of a job's usual steps fits the room left to the limits: from 1 with enough of it to 0.25 at them."""
    room, age_s = 1.0, limits.max_reading_age_s
    top_c = ceiling_c(telemetry, limits, forced=False)
    if telemetry.soc_temp_c.is_known(age_s) and (gap_c := top_c - cool_again_c(top_c, limits)) > 0:
        room = min(room, (top_c - telemetry.soc_temp_c.value) / gap_c)
    if not is_on(telemetry.plugged, age_s) and telemetry.charge.is_known(age_s):
        room = min(room, (telemetry.charge.value - limits.min_charge) / CHARGE_ROOM)
    return max(LEAST_EFFORT, room)


def _of_people(situation: Situation) -> Decision | None:
    if situation.paused:
        return Decision(Action.SERVE_ONLY, Reason.PAUSED, "training is paused by the user; resume it to go on")
    if not situation.can_learn:
        sentence = "this device has no torch, so it only serves; install dewfall[train] to let it learn"
        return Decision(Action.SERVE_ONLY, Reason.NOT_INSTALLED, sentence)
    if not situation.budget_left:
        return Decision(Action.SERVE_ONLY, Reason.BUDGET, "this device's privacy budget is spent; it only serves now")
    return None


def _of_supply(telemetry: Telemetry, limits: Limits) -> Decision | None:
    if is_on(telemetry.under_voltage, limits.max_reading_age_s):
        sentence = "the power supply gives too little voltage; use a stronger one or a shorter cable"
        return Decision(Action.WAIT, Reason.UNDER_VOLTAGE, sentence)
    return hidden("whether the supply is strong enough", telemetry.under_voltage, limits)


def _of_memory(telemetry: Telemetry, limits: Limits, previous: Decision | None) -> Decision | None:
    free, pressure = telemetry.free_memory_mib, telemetry.memory_pressure
    trains = previous is not None and previous.action is Action.TRAIN
    least = limits.min_free_memory_mib if trains else limits.resume_free_memory_mib
    if unseen := hidden("the free memory", free, limits):
        return unseen
    if free.is_known(limits.max_reading_age_s) and free.value < least:
        sentence = f"{free.value:.0f} MiB of memory are free; training waits until {least:g} MiB are"
        return Decision(Action.WAIT, Reason.MEMORY, sentence)
    if limits.max_memory_pressure is None:
        return None
    if pressure.is_known(limits.max_reading_age_s) and pressure.value > limits.max_memory_pressure:
        sentence = f"work waits for memory {pressure.value:.2f} of the time, {limits.max_memory_pressure:g} is allowed"
        return Decision(Action.WAIT, Reason.MEMORY, sentence)
    return hidden("how scarce memory is", pressure, limits)


def _of_caps(situation: Situation, limits: Limits) -> Decision | None:
    spent, joules, traffic = situation.spent, limits.max_joules_per_day, limits.max_bytes_per_day
    if joules is not None and spent.joules + 2 * limits.piece_j > joules:  # what is in use, and what is booked for it
        sentence = f"learning has taken {spent.joules:.0f} of today's {joules:g} J; it goes on tomorrow"
        return Decision(Action.WAIT, Reason.ENERGY_CAP, sentence)
    if traffic is not None and spent.bytes + situation.round_bytes > traffic:
        sentence = f"{spent.bytes} bytes were moved today and {traffic} are allowed; learning goes on tomorrow"
        return Decision(Action.WAIT, Reason.TRAFFIC_CAP, sentence)
    return None


def _of_work(situation: Situation, limits: Limits) -> Decision | None:
    if situation.release is None:
        return Decision(Action.WAIT, Reason.NO_RELEASE, "there is no release to train on yet")
    if situation.samples < limits.min_samples:
        sentence = f"{situation.samples} samples are kept, {limits.min_samples} are needed"
        return Decision(Action.WAIT, Reason.FEW_SAMPLES, sentence)
    return None


def _of_dwell(situation: Situation, limits: Limits, previous: Decision | None) -> Decision | None:
    stands_still = previous is not None and previous.action is not Action.TRAIN
    if not stands_still or situation.dwelt_s >= limits.min_dwell_s:
        return None
    sentence = f"training stopped less than {limits.min_dwell_s:g} s ago; it starts again after that"
    return Decision(Action.WAIT, Reason.DWELL, sentence)
