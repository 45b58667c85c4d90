"""What answers requests: one reference to an engine, replaced between two requests and never in the middle of one."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.ports import Engine, Release
from learning_core.errors import DewfallError
from learning_core.params import Array

REMEMBERED = 4096


class NothingServed(DewfallError):
    """There is no release to answer with yet."""


@dataclass(frozen=True, slots=True)
class Served:
    """What answers now: a release and its student, with this device's adapter or without."""

    release: Release
    engine: Engine
    adapted: bool


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the latest requests for one sample, in milliseconds; `count` is of all requests ever."""

    p50_ms: float
    p99_ms: float
    count: int


class Serving:
    """Answers from any thread. Holds what is served and how long answers took; what is served is saved by its owner."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._served: Served | None = None
        self._took_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._count = 0

    @property
    def served(self) -> Served | None:
        return self._served

    def serve(self, served: Served | None) -> None:
        """From the next request on."""
        self._served = served

    def answer(self, conditions: Sequence[int], seed: int) -> Array:
        """One sample [N, C, H, W] for each condition; equal seeds and conditions give equal samples."""
        began = self._clock()
        served = self._served
        if served is None:
            raise NothingServed("no release has arrived yet; try again when the status shows one")
        manifest = served.release.manifest
        wanted = np.array(conditions, np.int64)
        if not wanted.size or wanted.min() < 0 or wanted.max() >= manifest.num_conditions:
            raise DewfallError(f"ask for conditions within 0..{manifest.num_conditions - 1}")
        shape = (len(wanted), *served.release.sample_shape)
        noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
        samples = served.engine.generate(noise, wanted, manifest.steps, manifest.guidance)
        self._count += 1
        if len(wanted) == 1:
            self._took_ms.append((self._clock() - began) * 1e3)
        return samples

    def latency(self) -> Latency:
        took = np.array(list(self._took_ms))
        p50, p99 = (float(np.quantile(took, at)) for at in (0.5, 0.99)) if len(took) else (math.nan, math.nan)
        return Latency(p50, p99, self._count)
