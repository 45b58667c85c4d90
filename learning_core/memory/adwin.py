"""A window over a stream that grows while nothing changes and drops its old part when something did.

ADWIN (Bifet and Gavalda 2007, "Learning from time-changing data with adaptive windowing"). The window is an
exponential histogram: row i holds a few buckets of 2**i numbers, so W numbers take O(log W) memory, a step O(1)
amortised to take one in and O(log W) to look at every boundary between old and new.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log, sqrt
from typing import NamedTuple


class Bucket(NamedTuple):
    """Numbers that have become one. `squares`: the sum of their squared deviations from their mean."""

    num: int
    total: float
    squares: float


NOTHING = Bucket(0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Rule:
    """`confidence_delta` is the chance of a false cut the bound is made for; measured alarms are far fewer."""

    confidence_delta: float = 0.05
    per_row: int = 5  # buckets of one size before the two oldest become one
    min_part: int = 5  # numbers that each side of a cut has to have
    every: int = 4  # numbers between two looks


@dataclass(frozen=True, slots=True)
class Window:
    """The whole state. rows[i]: buckets of 2**i numbers, newest first; `whole` is all of them as one."""

    rows: tuple[tuple[Bucket, ...], ...] = ()
    whole: Bucket = NOTHING

    @property
    def mean(self) -> float:
        return self.whole.total / self.whole.num if self.whole.num else 0.0


def step(before: Window, value: float, rule: Rule) -> tuple[Window, bool]:
    """Take in one finite number: the next window, and whether its old part was dropped because the mean moved.

    The bound is for numbers that span about one, such as errors or shares; bring others there first.
    """
    newest = Bucket(1, value, 0.0)
    window = Window(_compressed(before.rows, newest, rule.per_row), joined(before.whole, newest))
    if window.whole.num % rule.every:
        return window, False
    drifted = False
    while _has_cut(window, rule):
        window, drifted = _without_oldest(window), True
    return window, drifted


def joined(left: Bucket, right: Bucket) -> Bucket:
    """Two groups as one (Chan, Golub and LeVeque 1983); either may be empty."""
    if not left.num or not right.num:
        return left if left.num else right
    count = left.num + right.num
    gap = right.total / right.num - left.total / left.num
    squares = left.squares + right.squares + gap * gap * left.num * right.num / count
    return Bucket(count, left.total + right.total, squares)


def _compressed(rows: tuple[tuple[Bucket, ...], ...], newest: Bucket, per_row: int) -> tuple[tuple[Bucket, ...], ...]:
    """Put one bucket in front; a row that is too long hands its two oldest, joined, to the next."""
    for depth, row in enumerate(rows):
        if len(row) < per_row:
            return (*rows[:depth], (newest, *row), *rows[depth + 1 :])
        rows = (*rows[:depth], (newest, *row[:-2]), *rows[depth + 1 :])
        newest = joined(row[-1], row[-2])
    return (*rows, (newest,))


def _oldest_first(window: Window) -> Iterator[Bucket]:
    for row in reversed(window.rows):
        yield from reversed(row)


def _has_cut(window: Window, rule: Rule) -> bool:
    """Whether the means on the two sides of some boundary differ by more than chance allows (the paper's eq. 3.1)."""
    count, total, squares = window.whole
    if count < 2 * rule.min_part:
        return False
    term = log(2 * log(count) / rule.confidence_delta)
    spread = 2 * term * squares / count
    edge = 2 / 3 * term
    old_count, old_total = 0, 0.0
    for bucket in _oldest_first(window):
        old_count += bucket.num
        old_total += bucket.total
        new_count = count - old_count
        if new_count < rule.min_part:
            return False
        if old_count < rule.min_part:
            continue
        share = 1 / old_count + 1 / new_count
        gap = abs(old_total / old_count - (total - old_total) / new_count)
        if gap > sqrt(spread * share) + edge * share:
            return True
    return False


def _without_oldest(window: Window) -> Window:
    *rows, last = window.rows
    kept = (*rows, last[:-1]) if len(last) > 1 else tuple(rows)
    return Window(kept, _whole(bucket for row in kept for bucket in row))


def _whole(buckets: Iterable[Bucket]) -> Bucket:
    whole = NOTHING
    for bucket in buckets:
        whole = joined(whole, bucket)
    return whole
