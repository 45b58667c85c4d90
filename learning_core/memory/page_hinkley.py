"""Has the mean of a stream of numbers moved? Two sums that only a lasting change can raise.

Page-Hinkley (Page 1954, Biometrika 41), to both sides. Numbers are measured in standard deviations from the mean of
the stream so far, so that one setting serves error rates, losses and sensor values alike, and no number counts for
more than a few of them, so that neither an outlier nor a rare error is a drift (winsorised, Hawkins 1993).
"""

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True)
class Rule:
    """Distances in standard deviations of the stream.

    `tolerance` is what the mean may move without an alarm; it finds shifts of twice that fastest. `threshold` sets how
    often a stream that does not drift alarms: at most about once in 10,000 items as it stands.
    """

    tolerance: float = 0.15
    threshold: float = 22.5
    most: float = 4.0  # what one number can count
    min_count: int = 30  # numbers that say what is usual here


@dataclass(frozen=True, slots=True)
class Watched:
    """The whole state. `squares` is the sum of squared deviations from `mean`; `risen` and `fallen` are >= 0."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    risen: float = 0.0
    fallen: float = 0.0


def step(before: Watched, value: float, rule: Rule) -> tuple[Watched, bool]:
    """Take in one finite number: the next state, and whether the stream drifted. After an alarm it starts anew."""
    risen, fallen = 0.0, 0.0
    if before.count >= rule.min_count and before.squares > 0:
        distance = (value - before.mean) / sqrt(before.squares / (before.count - 1))
        distance = max(-rule.most, min(rule.most, distance))
        risen = max(0.0, before.risen + distance - rule.tolerance)
        fallen = max(0.0, before.fallen - distance - rule.tolerance)
        if max(risen, fallen) > rule.threshold:
            return Watched(), True
    count = before.count + 1
    mean = before.mean + (value - before.mean) / count
    squares = before.squares + (value - before.mean) * (value - mean)
    return Watched(count, mean, squares, risen, fallen), False
