"""Whether it is too hot to train, or soon will be. Pure."""

from edge_agent.config import Limits
from edge_agent.forecast import Trend, seconds_to
from edge_agent.thermal_model import Outlook
from edge_agent.values import Action, Decision, Quality, Reason, Telemetry


def against_heat(
    telemetry: Telemetry, limits: Limits, trend: Trend | Outlook | None, previous: Decision | None, *, forced: bool
) -> Decision | None:
    """Why heat stands against training. A device that was hot has to cool down further than to its limit."""
    chip, age_s = telemetry.soc_temp_c, limits.max_reading_age_s
    if not chip.is_known(age_s):
        if chip.quality is Quality.ABSENT and not limits.needs_thermometer:
            return None if forced else _of_battery(telemetry, limits, previous)
        sentence = f"the temperature is not known ({chip.quality}), so the device may be hot"
        return Decision(Action.WAIT, Reason.HEAT_UNKNOWN, sentence)
    top_c = ceiling_c(telemetry, limits, forced=forced)
    limit_c = cool_again_c(top_c, limits) if _was_hot(previous) else top_c
    if chip.value >= limit_c:
        sentence = f"the chip has {chip.value:.1f} °C; training waits until it is below {limit_c:g} °C"
        return Decision(Action.WAIT, Reason.HEAT, sentence)
    trip_c = telemetry.trip_c.value if telemetry.trip_c.is_known(age_s) else limits.max_soc_temp_c
    least_s = limits.min_seconds_to_trip * (2 if previous is not None and previous.reason is Reason.HEAT_SOON else 1)
    if (left_s := seconds_to(trip_c, chip.value, trend)) < least_s:
        sentence = f"the chip has {chip.value:.1f} °C and would reach {trip_c:g} °C in {left_s:.0f} s"
        return Decision(Action.WAIT, Reason.HEAT_SOON, sentence)
    return None if forced else _of_battery(telemetry, limits, previous)


def ceiling_c(telemetry: Telemetry, limits: Limits, *, forced: bool) -> float:
    """The temperature at which training stops: the lower of the owner's limit and the chip's trip point.

    Forced, it is the trip point alone; a chip that shows none keeps the owner's limit.
    """
    trip = telemetry.trip_c
    if not trip.is_known(limits.max_reading_age_s):
        return limits.max_soc_temp_c
    return trip.value if forced else min(trip.value, limits.max_soc_temp_c)


def cool_again_c(top_c: float, limits: Limits) -> float:
    """Where training may go on after `top_c` was reached."""
    return top_c - (limits.max_soc_temp_c - limits.resume_soc_temp_c)


def _of_battery(telemetry: Telemetry, limits: Limits, previous: Decision | None) -> Decision | None:
    battery = telemetry.battery_temp_c
    if battery.quality is Quality.ABSENT:
        return None
    if not battery.is_known(limits.max_reading_age_s):
        sentence = f"the battery's temperature is not known ({battery.quality}), so it may be hot"
        return Decision(Action.WAIT, Reason.HEAT_UNKNOWN, sentence)
    limit_c = limits.max_battery_temp_c
    if _was_hot(previous):
        limit_c = cool_again_c(limit_c, limits)
    if battery.value >= limit_c:
        sentence = f"the battery has {battery.value:.1f} °C; training waits until it is below {limit_c:g} °C"
        return Decision(Action.WAIT, Reason.HEAT, sentence)
    return None


def _was_hot(previous: Decision | None) -> bool:
    return previous is not None and previous.reason is Reason.HEAT
