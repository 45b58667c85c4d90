"""Requests to the agent's serving in this process: beside the bare session, while adapters change, while it learns."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.drivers.overhead import Pair, measure_pair
from edge_agent.ports import Release
from edge_agent.serving import Served, Serving, served_with
from learning_core.params import Array
from simulations.bench.serve_world import random_adapter

ADAPTERS = 4
SEEDS = 3
CALLERS = 2
BESIDE_PAUSE_S = 0.002


def time_pairs(release: Release, pairs: int) -> list[Pair]:
    """The same samples drawn by a loop around the session and by the agent, in turns; unadapted, by the usual one."""
    serving = Serving()
    serving.serve(served_with(release, None))
    for seed in range(10):
        measure_pair(serving, seed, seed)
    return [measure_pair(serving, seed % release.manifest.num_conditions, seed) for seed in range(pairs)]


@dataclass(frozen=True, slots=True)
class Swaps:
    """What came of requests during swaps. `held_ms`: for each swap, how long it can have held a request at most."""

    requests: int
    failed: int
    wrong: int
    held_ms: tuple[float, ...]
    held_core_ms: tuple[float, ...]  # without what other programs took of that


def ask_during_swaps(release: Release, requests: int, swaps: int) -> Swaps:
    """Ask from several threads while adapters are exchanged.

    Each answer has to be that of a version which was served when its request began, ended, or in between.
    """
    ways = [served_with(release, None), *(served_with(release, random_adapter(release, n)) for n in range(ADAPTERS))]
    expected = [_expected(release, way) for way in ways]
    serving, history = Serving(), _History()
    asked = _Asked(serving, history, expected, requests)
    history.began(0)
    serving.serve(ways[0])
    callers = [threading.Thread(target=asked.ask, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    held, held_core = [], []
    for number in range(1, swaps + 1):
        asked.wait(requests * number // (swaps + 1))
        way = number % len(ways)
        if way:
            ways[way] = served_with(release, random_adapter(release, way - 1))  # the costly part, as the agent does it
        history.began(way)
        wall, core = time.perf_counter(), time.thread_time()
        serving.serve(ways[way])
        held_core.append((time.thread_time() - core) * 1e3)
        held.append((time.perf_counter() - wall) * 1e3)
        history.ended()
    for caller in callers:
        caller.join()
    return Swaps(asked.done, asked.failed, asked.wrong, tuple(held), tuple(held_core))


def _expected(release: Release, served: Served) -> dict[tuple[int, int], Array]:
    usual, found = served.variants[0], {}
    for condition in range(release.manifest.num_conditions):
        for seed in range(SEEDS):
            noise = np.random.default_rng(seed).standard_normal((1, *release.sample_shape), np.float32)
            asked = np.array([condition])
            found[condition, seed] = served.engine.generate(noise, asked, usual.steps, usual.guidance)
    return found


class _History:
    """Which way was served when: one entry for each swap, the latest still going on while `ended` lags behind."""

    def __init__(self) -> None:
        self.ways: list[int] = []
        self.settled = 0

    def began(self, way: int) -> None:
        self.ways.append(way)

    def ended(self) -> None:
        self.settled = len(self.ways) - 1


class _Asked:
    """Counts what comes back to several callers."""

    def __init__(
        self, serving: Serving, history: _History, expected: Sequence[dict[tuple[int, int], Array]], most: int
    ) -> None:
        self._serving = serving
        self._history = history
        self._expected = expected
        self._most = most
        self._turn = threading.Condition()
        self.begun = self.done = self.failed = self.wrong = 0

    def ask(self, caller: int) -> None:
        rng = np.random.default_rng(caller)
        while self._begin():
            condition, seed = int(rng.integers(10)), int(rng.integers(SEEDS))
            first = self._history.settled
            failed = wrong = False
            try:
                answer = self._serving.answer([condition], seed)
                ways = set(self._history.ways[first:])
                wrong = not any((answer == self._expected[way][condition, seed]).all() for way in ways)
            except Exception:
                failed = True
            with self._turn:
                self.done, self.failed, self.wrong = self.done + 1, self.failed + failed, self.wrong + wrong
                self._turn.notify_all()

    def wait(self, count: int) -> None:
        """Until so many were answered."""
        with self._turn:
            self._turn.wait_for(lambda: self.done >= count)

    def _begin(self) -> bool:
        with self._turn:
            self.begun += 1
            return self.begun <= self._most


def time_requests(serving: Serving, seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Milliseconds of each request for one sample, asked one after another with a short pause, as programs do."""
    took: list[float] = []
    until = clock() + seconds
    while (began := clock()) < until:
        serving.answer([len(took) % 10], len(took))
        took.append((clock() - began) * 1e3)
        time.sleep(BESIDE_PAUSE_S)
    return took
