"""Whether the device may train now or the fog for it, and how much of a job. Pure: a table of cases tests it."""

import datetime
import math
from dataclasses import dataclass, field, replace

from edge_agent.budget import Cost
from edge_agent.comfort import against_comfort, against_hours, against_network
from edge_agent.config import Limits
from edge_agent.evidence import hidden, is_on
from edge_agent.forecast import Trend
from edge_agent.heat import against_heat
from edge_agent.shaping import headroom, shape
from edge_agent.thermal_model import Outlook
from edge_agent.values import Action, Decision, Reason, Telemetry

_OF_HEAT = {Reason.HEAT, Reason.HEAT_SOON, Reason.HEAT_UNKNOWN, Reason.THROTTLED}
_OF_ENERGY = {Reason.CHARGE, Reason.CHARGE_UNKNOWN, Reason.CHARGER, Reason.ENERGY_CAP}
_OF_MEANS = {Reason.MEMORY, Reason.BUSY, Reason.NOT_INSTALLED, Reason.UNKNOWN}
OF_THE_DEVICE = frozenset(_OF_HEAT | _OF_ENERGY | _OF_MEANS)  # they stand against learning here, not elsewhere


@dataclass(frozen=True, slots=True)
class Situation:
    """What the device knows of itself besides its telemetry."""

    paused: bool
    can_learn: bool
    budget_left: bool
    release: int | None
    samples: int
    forced: bool = False
    own_share: float = 0.0  # of the waiting for the processor, what is the learner's own
    spent: Cost = field(default_factory=Cost)  # today
    round_bytes: int = 0  # what a round would add to it
    learner_w: float = 0.0  # the most that learning was seen to draw
    local: datetime.datetime | None = None  # on the device's own clock
    trend: Trend | Outlook | None = None
    load: float = 0.0  # cores that the learner keeps busy now
    dwelt_s: float = math.inf  # since the action last changed
    can_offload: bool = False  # a fog would take the work now
    rank: int | None = None  # columns of each adapter of the served release


def decide(telemetry: Telemetry, limits: Limits, situation: Situation, previous: Decision | None = None) -> Decision:
    """Train, or the first reason against it, or offload when the reason is only the device's own.

    `previous` gives heat and memory their hysteresis. Force silences what is about comfort: the owner's limits on heat
    below the trip point, charge, quiet and the like. It cannot silence the trip point, an unknown temperature, a weak
    supply, full memory or a day's cap.
    """
    against = _against(telemetry, limits, situation, previous)
    if against is None:
        decision = _start(telemetry, limits, situation, previous)
    elif _goes_to_the_fog(against, telemetry, limits, situation, previous):
        decision = Decision(Action.OFFLOAD, against.reason, f"{against.sentence}; the fog may learn in its place")
    else:
        decision = against
    return replace(decision, headroom=headroom(telemetry, limits, forced=situation.forced))


def _against(telemetry: Telemetry, limits: Limits, situation: Situation, previous: Decision | None) -> Decision | None:
    return (
        _of_people(situation)
        or against_heat(telemetry, limits, situation.trend, previous, forced=situation.forced)
        or _of_supply(telemetry, limits)
        or _of_memory(telemetry, limits, previous)
        or _of_caps(situation, limits)
        or (None if situation.forced else against_comfort(telemetry, limits, situation.own_share, situation.local))
        or _of_work(situation, limits)
    )


def _start(telemetry: Telemetry, limits: Limits, situation: Situation, previous: Decision | None) -> Decision:
    """Train, but not so soon after a stop; the fog keeps what it has until then."""
    stood_still = previous is not None and previous.action is not Action.TRAIN
    if stood_still and situation.dwelt_s < limits.min_dwell_s:
        has_it = situation.can_offload and previous is not None and previous.action is Action.OFFLOAD
        sentence = f"training stopped less than {limits.min_dwell_s:g} s ago; it starts again after that"
        return Decision(Action.OFFLOAD if has_it else Action.WAIT, Reason.DWELL, sentence)
    if situation.forced:
        return Decision(Action.TRAIN, Reason.FORCED, "a person asked for training whatever the limits for comfort say")
    job = shape(telemetry, limits, situation.rank)
    return Decision(Action.TRAIN, Reason.READY, "nothing stands against training", job)


def _goes_to_the_fog(
    against: Decision, telemetry: Telemetry, limits: Limits, situation: Situation, previous: Decision | None
) -> bool:
    """Only what the device alone stands against, and not before it has stood against it for the dwell."""
    if not situation.can_offload or against.reason not in OF_THE_DEVICE or not situation.budget_left:
        return False
    has_begun = previous is None or previous.action is Action.OFFLOAD
    just_stopped = previous is not None and previous.action is Action.TRAIN
    if not has_begun and (just_stopped or situation.dwelt_s < limits.min_dwell_s):
        return False
    of_comfort = against_network(telemetry, limits) or against_hours(situation.local, limits)
    return not (
        (of_comfort and not situation.forced)
        or _of_supply(telemetry, limits)
        or _of_traffic(situation, limits)
        or _of_work(situation, limits)
    )


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
    spent, joules = situation.spent, limits.max_joules_per_day
    piece_j = max(limits.piece_j, situation.learner_w * limits.max_reading_age_s)
    if joules is not None and spent.joules + 2 * piece_j > joules:  # what is in use, and what is booked for it
        sentence = f"learning has taken {spent.joules:.0f} of today's {joules:g} J; it goes on tomorrow"
        return Decision(Action.WAIT, Reason.ENERGY_CAP, sentence)
    return _of_traffic(situation, limits)


def _of_traffic(situation: Situation, limits: Limits) -> Decision | None:
    spent, traffic = situation.spent, limits.max_bytes_per_day
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
