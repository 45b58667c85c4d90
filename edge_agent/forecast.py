"""How soon the chip will be too hot: a straight line through its last temperatures.

Heat settles exponentially, so on the way up the line runs ahead of the truth and the forecast errs towards waiting.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Moment = tuple[float, float]  # when (seconds on one clock), how hot (degrees Celsius)
MIN_MOMENTS = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """How fast the temperature moves, and over how many seconds that was seen."""

    slope_c_per_s: float
    span_s: float


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


def seconds_to(limit_c: float, temp_c: float, trend: Trend | None) -> float:
    """How long until `limit_c`: 0 at or above it, infinite while the temperature does not rise or no trend is known."""
    if temp_c >= limit_c:
        return 0.0
    if trend is None or trend.slope_c_per_s <= 0:
        return math.inf
    return (limit_c - temp_c) / trend.slope_c_per_s
