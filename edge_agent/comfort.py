"""What an owner would rather not have while the device is in use, and may ask for nevertheless. Pure."""

import datetime
from dataclasses import replace

from edge_agent.config import Limits
from edge_agent.evidence import hidden, is_on
from edge_agent.hours import contains
from edge_agent.values import Action, Decision, Quality, Reason, Telemetry

NETWORK_AGE_S = 60.0  # a device changes its network seldom, and asking starts a program


def against_comfort(
    telemetry: Telemetry, limits: Limits, own_share: float, local: datetime.datetime | None
) -> Decision | None:
    """The first such reason. `own_share`: of the waiting, the learner's own; `local`: the device's clock."""
    if is_on(telemetry.throttled, limits.max_reading_age_s):
        return Decision(Action.WAIT, Reason.THROTTLED, "the kernel is slowing the processor down")
    return (
        hidden("whether the processor is slowed down", telemetry.throttled, limits)
        or _of_charge(telemetry, limits)
        or _of_others(telemetry, limits, own_share)
        or against_network(telemetry, limits)
        or against_hours(local, limits)
    )


def _of_charge(telemetry: Telemetry, limits: Limits) -> Decision | None:
    plugged, charge = telemetry.plugged, telemetry.charge
    if is_on(plugged, limits.max_reading_age_s):
        return None
    if limits.needs_charger:
        return Decision(Action.WAIT, Reason.CHARGER, "the device is not known to be plugged in; plug it in to train")
    if not charge.is_known(limits.max_reading_age_s):
        sentence = f"the battery's charge is not known ({charge.quality}), so it may be low"
        return Decision(Action.WAIT, Reason.CHARGE_UNKNOWN, sentence)
    if charge.value < limits.min_charge:
        sentence = f"the battery is at {charge.value:.2f}, below {limits.min_charge:g}, and not charging"
        return Decision(Action.WAIT, Reason.CHARGE, sentence)
    return None


def _of_others(telemetry: Telemetry, limits: Limits, own_share: float) -> Decision | None:
    pressure, most = telemetry.cpu_pressure, limits.max_cpu_pressure
    if most is None:
        return None
    others = pressure.value - own_share
    if pressure.is_known(limits.max_reading_age_s) and others > most:
        sentence = f"other programs keep the processor waiting {others:.2f} of the time, {most:g} is allowed"
        return Decision(Action.WAIT, Reason.BUSY, sentence)
    return hidden("how busy the processor is", pressure, limits)


def against_network(telemetry: Telemetry, limits: Limits) -> Decision | None:
    metered = telemetry.metered
    if metered.quality is Quality.OK and metered.age_s <= NETWORK_AGE_S:
        metered = replace(metered, age_s=0.0)
    if limits.allow_metered:
        return None
    is_absent = metered.quality is Quality.ABSENT
    if is_on(metered, limits.max_reading_age_s) or (is_absent and limits.absent_is_metered):
        sentence = "bytes cost money on this network; set limits.allow_metered to train nevertheless"
        return Decision(Action.WAIT, Reason.METERED, sentence)
    return hidden("whether bytes cost money", metered, limits)


def against_hours(local: datetime.datetime | None, limits: Limits) -> Decision | None:
    if not limits.quiet_hours:
        return None
    if local is None:
        return Decision(Action.WAIT, Reason.QUIET, "the local time is not known, so it may be a quiet hour")
    for window in limits.quiet_hours:
        if contains(window, local.time()):
            return Decision(Action.WAIT, Reason.QUIET, f"these are quiet hours ({window})")
    return None
