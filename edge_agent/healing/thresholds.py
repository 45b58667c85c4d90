"""Is a value much? It is compared with what was usual lately and with what was usual when the student was approved.

The moving limit follows a signal that changes slowly and rightly, so it would also follow a fault that grows slowly:
beside it stand an anchored limit, from the first values after an approved change, and a Page-Hinkley sum. A value
above a limit is not learned from. Exact signals need no history: anything above their floor is much.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from edge_agent.healing.signals import EXACT, Signal, Values
from learning_core.memory import page_hinkley

SLOW = page_hinkley.Rule(tolerance=0.5, threshold=12.0, min_count=25)
ROBUST = 1.4826  # a normal distribution's standard deviation, in median absolute deviations
FLOORS = MappingProxyType(
    {
        Signal.FILES: 0.5,
        Signal.PROBE: 1e-4,
        Signal.LIVE_PROBE: 1e-4,
        Signal.FLICKER: 1e-4,
        Signal.ANCHOR: 0.02,
        Signal.VARIATION: 0.02,
        Signal.OUT_OF_RANGE: 0.005,
        Signal.LATENCY: 0.1,
        Signal.DRIFT: 0.01,
        Signal.DIVERSITY: 0.05,
    }
)


@dataclass(frozen=True, slots=True)
class Rule:
    """When a signal trips: `needed` breaches among the last `of` values, the newest one of them.

    `fixed`: limits set by hand instead of learned ones, for a comparison.
    """

    window: int = 60
    warm_up: int = 25
    quantile: float = 0.99
    spread: float = 1.5  # of the moving limit, in robust standard deviations
    anchored_spread: float = 3.0
    needed: int = 2
    of: int = 3
    floors: Mapping[Signal, float] = field(default_factory=lambda: FLOORS)
    fixed: Mapping[Signal, float] | None = None
    slow: page_hinkley.Rule = SLOW


@dataclass(frozen=True, slots=True)
class Window:
    """One signal's history: the first healthy values since an approved change, the latest, and the latest breaches."""

    first: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    breaches: tuple[bool, ...] = ()
    slow: page_hinkley.Watched = field(default_factory=page_hinkley.Watched)


def limit(values: tuple[float, ...], rule: Rule, spread: float, floor: float) -> float:
    """What `values` leave usual: their quantile, so many robust standard deviations and the floor above it."""
    seen = np.asarray(values)
    deviation = ROBUST * float(np.median(np.abs(seen - np.median(seen))))
    return float(np.quantile(seen, rule.quantile)) + spread * deviation + floor


def step(window: Window, signal: Signal, value: float, rule: Rule) -> tuple[Window, bool]:
    """Take in one value: the next window, and whether the signal trips."""
    breach, slow, window = _breach(window, signal, value, rule)
    breaches = (*window.breaches, breach)[-rule.of :]
    tripped = breach and (signal is Signal.FILES or sum(breaches) >= rule.needed)
    window = replace(window, breaches=breaches)
    if not breach and signal not in EXACT:
        first = window.first if len(window.first) >= rule.warm_up else (*window.first, value)
        window = replace(window, first=first, recent=(*window.recent, value)[-rule.window :])
    return window, tripped or slow


def steps(
    windows: Mapping[Signal, Window], values: Values, rule: Rule
) -> tuple[dict[Signal, Window], tuple[Signal, ...]]:
    """Take in one tick: the next windows, and the signals that trip."""
    after, tripped = dict(windows), []
    for signal, value in values.items():
        after[signal], trips = step(windows.get(signal, Window()), signal, value, rule)
        if trips:
            tripped.append(signal)
    return after, tuple(tripped)


def _breach(window: Window, signal: Signal, value: float, rule: Rule) -> tuple[bool, bool, Window]:
    """Whether this value is much, whether a slow sum is, and the window with that sum moved on."""
    floor = rule.floors[signal]
    if signal in EXACT:
        return value > floor, False, window
    if rule.fixed is not None:
        return value > rule.fixed[signal], False, window
    rising = window.slow.risen >= window.slow.fallen
    slow, drifted = page_hinkley.step(window.slow, value, rule.slow)
    window = replace(window, slow=slow)
    if len(window.first) < rule.warm_up:
        return False, False, window
    moving = limit(window.recent, rule, rule.spread, floor)
    anchored = limit(window.first, rule, rule.anchored_spread, floor)
    return value > min(moving, anchored), drifted and rising, window


def calm(windows: Mapping[Signal, Window]) -> dict[Signal, Window]:
    """The same histories with every breach forgotten: what was done about them is not to be done again."""
    return {
        signal: replace(window, breaches=(), slow=page_hinkley.Watched(*_usual(window.slow)))
        for signal, window in windows.items()
    }


def _usual(slow: page_hinkley.Watched) -> tuple[int, float, float]:
    return slow.count, slow.mean, slow.squares
