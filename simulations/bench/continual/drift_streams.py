"""Streams whose drift points are known, streams that never drift, and what a detector makes of both."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Streams = Mapping[str, NDArray[np.float64]]
Detector = Callable[[], Callable[[float], bool]]  # a fresh detector: takes one number, says whether it alarms

ERRORS = {  # rate before, rate after, items in between
    "errors .2 to .3": (0.2, 0.3, 0),
    "errors .2 to .4": (0.2, 0.4, 0),
    "errors .2 to .6": (0.2, 0.6, 0),
    "errors .05 to .15": (0.05, 0.15, 0),
    "errors .4 to .2": (0.4, 0.2, 0),
    "errors .2 to .6 over 1,000": (0.2, 0.6, 1000),
}
SHIFTS = {  # of the mean, in standard deviations; items until it is complete
    "mean +.25 sd": (0.25, 0),
    "mean -.5 sd": (-0.5, 0),
    "mean +1 sd": (1.0, 0),
    "mean +1 sd over 1,000": (1.0, 1000),
}


def stationary(seed: int, runs: int, length: int) -> dict[str, NDArray[np.float64]]:
    """Streams that never drift, [runs, length] of each kind."""
    rng = np.random.default_rng((seed, 1))
    return {
        "errors .2": _errors(rng, np.full((runs, length), 0.2)),
        "errors .05": _errors(rng, np.full((runs, length), 0.05)),
        "normal": rng.normal(size=(runs, length)),
    }


def drifting(
    seed: int, repeats: int, earliest: int, latest: int, after: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Streams [repeats, latest + after] of each kind, and where each repeat's drift begins [repeats]."""
    rng = np.random.default_rng((seed, 2))
    changes = rng.integers(earliest, latest, repeats)
    since = np.arange(latest + after) - changes[:, None]
    streams = {}
    for kind, (before, later, span) in ERRORS.items():
        streams[kind] = _errors(rng, before + (later - before) * _progress(since, span))
    for kind, (shift, span) in SHIFTS.items():
        streams[kind] = rng.normal(size=since.shape) + shift * _progress(since, span)
    return streams, changes


def outcome(make: Detector, still: Streams, moving: Streams, changes: NDArray[np.int64], after: int) -> dict[str, Any]:
    """False alarms by kind of stationary stream, and items to the first alarm after each drift, at most `after`."""
    return {
        "alarms": {kind: sum(len(list(alarms(make(), run))) for run in runs) for kind, runs in still.items()},
        "delays": {
            kind: [delay(make(), run[: change + after], int(change)) for run, change in zip(runs, changes, strict=True)]
            for kind, runs in moving.items()
        },
    }


def alarms(detector: Callable[[float], bool], stream: NDArray[np.float64]) -> Iterator[int]:
    return (at for at, value in enumerate(stream.tolist()) if detector(value))


def delay(detector: Callable[[float], bool], stream: NDArray[np.float64], change: int) -> int:
    first = next((at for at in alarms(detector, stream) if at >= change), len(stream) - 1)
    return first + 1 - change


def _errors(rng: np.random.Generator, rate: NDArray[np.float64]) -> NDArray[np.float64]:
    return (rng.random(rate.shape) < rate).astype(np.float64)


def _progress(since: NDArray[np.int64], span: int) -> NDArray[np.float64]:
    """How far a drift has come: 0 before it, 1 once it is over."""
    return np.clip((since + 1) / max(span, 1), 0, 1)
