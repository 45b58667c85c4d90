"""Whether the device may train now. Pure: a table of cases tests it."""

from dataclasses import dataclass

from edge_agent.config import Limits
from edge_agent.values import Action, Decision, Quality, Reason, Telemetry


@dataclass(frozen=True, slots=True)
class Situation:
    """What the device knows of itself besides its telemetry."""

    paused: bool
    can_learn: bool
    budget_left: bool
    release: int | None
    samples: int


def decide(telemetry: Telemetry, limits: Limits, situation: Situation, previous: Decision | None = None) -> Decision:
    """The first reason against training, or none. `previous` gives heat its hysteresis."""
    return (
        _of_people(situation)
        or _of_heat(telemetry, limits, previous)
        or _of_charge(telemetry, limits)
        or _of_work(situation, limits)
        or Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
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


def _of_heat(telemetry: Telemetry, limits: Limits, previous: Decision | None) -> Decision | None:
    temperature = telemetry.soc_temp_c
    if not temperature.is_known(limits.max_reading_age_s):
        if temperature.quality is Quality.ABSENT and not limits.needs_thermometer:
            return None
        sentence = f"the temperature is not known ({temperature.quality}), so the device may be hot"
        return Decision(Action.WAIT, Reason.HEAT_UNKNOWN, sentence)
    was_hot = previous is not None and previous.reason is Reason.HEAT
    limit = limits.resume_soc_temp_c if was_hot else limits.max_soc_temp_c
    if temperature.value >= limit:
        sentence = f"the chip has {temperature.value:.1f} °C; training waits until it is below {limit:g} °C"
        return Decision(Action.WAIT, Reason.HEAT, sentence)
    if telemetry.throttled.is_known(limits.max_reading_age_s) and telemetry.throttled.value > 0:
        return Decision(Action.WAIT, Reason.THROTTLED, "the kernel is slowing the processor down")
    return None


def _of_charge(telemetry: Telemetry, limits: Limits) -> Decision | None:
    plugged, charge = telemetry.plugged, telemetry.charge
    if plugged.is_known(limits.max_reading_age_s) and plugged.value > 0:
        return None
    if not charge.is_known(limits.max_reading_age_s):
        sentence = f"the battery's charge is not known ({charge.quality}), so it may be low"
        return Decision(Action.WAIT, Reason.CHARGE_UNKNOWN, sentence)
    if charge.value < limits.min_charge:
        sentence = f"the battery is at {charge.value:.2f}, below {limits.min_charge:g}, and not charging"
        return Decision(Action.WAIT, Reason.CHARGE, sentence)
    return None


def _of_work(situation: Situation, limits: Limits) -> Decision | None:
    if situation.release is None:
        return Decision(Action.WAIT, Reason.NO_RELEASE, "there is no release to train on yet")
    if situation.samples < limits.min_samples:
        sentence = f"{situation.samples} samples are kept, {limits.min_samples} are needed"
        return Decision(Action.WAIT, Reason.FEW_SAMPLES, sentence)
    return None
