"""How soon the chip will be too hot: by its own thermal model where it was calibrated, else by a straight line.

Heat settles exponentially, so on the way up the line runs ahead of the truth and the forecast errs towards waiting. The
model knows how much of the rise is the die's, which ends within seconds, and needs the line only for the rest: sun,
other programs and a warm body move that slowly, whatever the room had when the device was calibrated.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edge_agent.thermal_model import Outlook, Rise, ThermalModel, advance, seconds_until

Moment = tuple[float, float]  # when (seconds on one clock), how hot (degrees Celsius)
MIN_MOMENTS = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """How fast the temperature moves, and over how many seconds that was seen."""

    slope_c_per_s: float
    span_s: float


@dataclass(frozen=True, slots=True)
class Course:
    """The last temperatures, what was left of them without the die's own rise, and the load they were seen under."""

    moments: tuple[Moment, ...] = ()
    slow: tuple[Moment, ...] = ()
    loads: tuple[Moment, ...] = ()  # cores that learned
    rise: Rise = field(default_factory=Rise)
    at_s: float | None = None


def followed(
    course: Course, model: ThermalModel | None, at_s: float, temp_c: float | None, load: float, window_s: float
) -> Course:
    """The course with one more look, of which `temp_c` may be unknown; `load` cores learned since the one before."""
    rise = course.rise
    if model is not None and course.at_s is not None and at_s > course.at_s:
        rise = advance(rise, model, load, at_s - course.at_s)
    moments, slow, loads = (recent(each, window_s, at_s) for each in (course.moments, course.slow, course.loads))
    if temp_c is not None:
        moments, slow = (*moments, (at_s, temp_c)), (*slow, (at_s, temp_c - rise.die_k))
        loads = (*loads, (at_s, load))
    return Course(moments, slow, loads, rise, at_s)


def prospect(course: Course, model: ThermalModel | None, window_s: float) -> Trend | Outlook | None:
    """What to forecast from if one core learns from now on; None while too little was seen."""
    if model is None:
        return trend_of(course.moments, window_s)
    slow = trend_of(course.slow, window_s)
    if slow is None:
        return None
    load = math.fsum(each for _, each in course.loads) / len(course.loads)
    still_k = slow.slope_c_per_s * model.body_s + (1 - load) * model.body_k
    return Outlook(model, model.die_k - course.rise.die_k, still_k)


def recent(moments: Iterable[Moment], window_s: float, now_s: float) -> tuple[Moment, ...]:
    """What belongs to the last `window_s` seconds; a moment later than now is of a clock that was set back."""
    return tuple(each for each in moments if now_s - window_s <= each[0] <= now_s)


def trend_of(moments: Sequence[Moment], window_s: float) -> Trend | None:
    """The least-squares line, or None while too little was seen: under three moments, or under half the window."""
    if len(moments) < MIN_MOMENTS or moments[-1][0] - moments[0][0] < window_s / 2:
        return None
    middle_s = math.fsum(at_s for at_s, _ in moments) / len(moments)
    mean_c = math.fsum(temp_c for _, temp_c in moments) / len(moments)
    spread = math.fsum((at_s - middle_s) ** 2 for at_s, _ in moments)
    slope = math.fsum((at_s - middle_s) * (temp_c - mean_c) for at_s, temp_c in moments) / spread
    return Trend(slope, moments[-1][0] - moments[0][0])


def seconds_to(limit_c: float, temp_c: float, trend: Trend | Outlook | None) -> float:
    """How long until `limit_c`: 0 at or above it, infinite while the temperature does not rise or no trend is known.

    From a model: until the limit less the model's margin.
    """
    if temp_c >= limit_c:
        return 0.0
    if isinstance(trend, Outlook):
        return seconds_until(limit_c, temp_c, trend)
    if trend is None or trend.slope_c_per_s <= 0:
        return math.inf
    return (limit_c - temp_c) / trend.slope_c_per_s
