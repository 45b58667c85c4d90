"""The real clock, secret randomness and this process's size."""

import os
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil

_SLICE_S = 0.25


class SystemClock:
    """Waits in short slices, because a signal handler may set a flag but must not touch a lock. Nothing is saved."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._news = threading.Event()

    def now_s(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self._stopping() and (left_s := until_s - time.monotonic()) > 0:
            if self._news.wait(min(left_s, _SLICE_S)):
                break
        self._news.clear()

    def wake(self) -> None:
        """End the wait that is going on, or the next one: something happened."""
        self._news.set()


def secret_rng() -> np.random.Generator:
    """A generator nobody can guess: Philox with a fresh 128-bit key from the operating system.

    Philox (Salmon et al. 2011) passes every statistical test but is no cipher; noise for an adversary who can compute
    on its outputs belongs on a fixed-point grid with a discrete Gaussian.
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16), "little")))


def resident_mb() -> float:
    return round(psutil.Process().memory_info().rss / 1e6, 1)
