"""What answers requests: one reference to a release's engines, replaced between two requests and never in one."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge_agent.ports import Engine, Release
from edge_agent.purse import Purse
from edge_agent.router import Measured, Needs, Refused, route
from learning_core.errors import DewfallError
from learning_core.params import Array, Params
from protos.codec import encode_params
from protos.release import STUDENT_GRAPH, Variant, sum_of

REMEMBERED = 4096
RECENT = 64
NO_FOG = "is answered by a fog, and none offers it now"
NO_GRAPH = "needs a graph that this release does not hold"


class NothingServed(DewfallError):
    """There is no release to answer with yet."""


class Unmet(DewfallError):
    """No variant may answer this request now; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """What answers now: a release and its graphs, with this device's adapter or without; made by `served_with`.

    `variants` are the live settings; the manifest's own can be restored.
    """

    release: Release
    engines: Mapping[str, Engine]
    adapted: bool
    variants: tuple[Variant, ...]
    adapter: str = ""  # sha256 of the adapter's inputs

    @property
    def engine(self) -> Engine:
        """The float32 student's."""
        return self.engines[STUDENT_GRAPH]

    @property
    def identity(self) -> str:
        """Of the weights that answer: another with each release and adapter, the same after they were loaded anew."""
        return f"{self.release.digest} {self.adapter}"


def served_with(release: Release, inputs: Params | None) -> Served:
    """A release with adapter inputs on each of its graphs, or with none. Raises Malformed when they do not fit."""
    engines = {graph: engine.adapted(inputs) for graph, engine in release.engines.items()}
    adapter = sum_of(encode_params(inputs)).sha256 if inputs is not None else ""
    return Served(release, engines, inputs is not None, release.manifest.variants, adapter)


@dataclass(frozen=True, slots=True)
class Answered:
    """One request and its answer. `at_s` on the clock of `Serving`; conditions: [N]; samples: [N, C, H, W]."""

    at_s: float
    conditions: tuple[int, ...]
    seed: int
    variant: str
    took_ms: float
    samples: Array


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the latest requests for one sample, in milliseconds; `count` is of all requests ever."""

    p50_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class _Now:
    served: Served
    table: tuple[Measured, ...]  # of every variant
    choices: tuple[Measured, ...]  # of those that may be chosen


class Serving:
    """Answers from any thread. Holds what is served and how long answers took; what is served is saved by its owner.

    `headroom`: what heat and charge leave, 1..0; `floor`: see `router.route`; `watts`: of one core;
    `core_clock`: core seconds of the calling thread. Without a purse answers may cost what they like.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        headroom: Callable[[], float] = lambda: 1.0,
        floor: float = 0.0,
        purse: Purse | None = None,
        watts: float = 0.0,
        core_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock = clock
        self._headroom = headroom
        self._floor = floor
        self._purse = purse
        self._watts = watts
        self._core_clock = core_clock
        self._now: _Now | None = None
        self._measured: Mapping[str, Measured] = {}
        self._preferred: frozenset[str] | None = None
        self._turn = threading.Lock()
        self._took_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._recent: deque[Answered] = deque(maxlen=RECENT)
        self._answers: Counter[str] = Counter()

    @property
    def served(self) -> Served | None:
        now = self._now
        return now.served if now is not None else None

    def serve(self, served: Served | None) -> None:
        """From the next request on."""
        with self._turn:
            before = self._now.served if self._now is not None else None
            if served is None or before is None or served.release.digest != before.release.digest:
                self._measured = {}
            elif served.adapter != before.adapter:  # what another adapter does to the other variants is not known yet
                usual = served.variants[0].name
                self._measured = {name: each for name, each in self._measured.items() if name == usual}
            self._now = self._look(served) if served is not None else None

    def amend(self, before: Served, after: Served) -> None:
        """Serve the same weights otherwise. Raises DewfallError when something else is served by now."""
        with self._turn:
            if self._now is None or self._now.served is not before:
                raise DewfallError("what is served was exchanged meanwhile, so nothing was changed")
            self._now = self._look(after)

    def measured(self, served: Served, found: Sequence[Measured]) -> None:
        """What its variants are worth and take here, if this release is served with this adapter still."""
        with self._turn:
            if self._now is None:
                return
            now = self._now.served
            if (now.release.digest, now.adapter) == (served.release.digest, served.adapter):
                self._measured = {each.variant.name: each for each in found}
                self._now = self._look(now)

    def prefer(self, variant_names: frozenset[str] | None) -> None:
        """Choose among these only, or among all; names that nothing served has are as good as none."""
        with self._turn:
            self._preferred = variant_names
            if self._now is not None:
                self._now = self._look(self._now.served)

    def restore_variants(self) -> None:
        """Sample again as the manifest says."""
        with self._turn:
            if self._now is not None:
                served = self._now.served
                self._now = self._look(replace(served, variants=served.release.manifest.variants))

    def table(self) -> tuple[Measured, ...]:
        """Every variant with what is known of it."""
        now = self._now
        return now.table if now is not None else ()

    def answer(self, conditions: Sequence[int], seed: int, needs: Needs = Needs()) -> Array:
        """One sample [N, C, H, W] for each condition; equal seeds and conditions give equal samples of one variant."""
        return self.draw(conditions, seed, needs).samples

    def draw(self, conditions: Sequence[int], seed: int, needs: Needs = Needs(), *, counted: bool = True) -> Answered:
        """The same with who answered and how long it took. Raises NothingServed, Unmet, or a DewfallError.

        `counted` False: a question of the agent's own, which costs energy and is nobody's answer.
        """
        began, used = self._clock(), self._core_clock()
        now = self._now
        if now is None:
            raise NothingServed("no release has arrived yet; try again when the status shows one")
        release = now.served.release
        wanted = np.array(conditions, np.int64)
        if not wanted.size or wanted.min() < 0 or wanted.max() >= release.manifest.num_conditions:
            raise DewfallError(f"ask for conditions within 0..{release.manifest.num_conditions - 1}")
        joules_left = self._purse.left() / len(wanted) if self._purse is not None else math.inf
        chosen = route(now.choices, needs.each_of(len(wanted)), self._headroom(), joules_left, self._floor)
        if isinstance(chosen, Refused):
            raise Unmet(chosen.reason)
        variant = chosen.variant
        noise = np.random.default_rng(seed).standard_normal((len(wanted), *release.sample_shape), np.float32)
        samples = now.served.engines[variant.graph].generate(noise, wanted, variant.steps, variant.guidance)
        answered = Answered(began, tuple(conditions), seed, variant.name, (self._clock() - began) * 1e3, samples)
        if self._purse is not None:
            self._purse.spend((self._core_clock() - used) * self._watts)
        if counted:
            self._remember(answered)
        return answered

    def recent(self) -> list[Answered]:
        """The latest answers of one sample each, the newest last. Their samples are the very arrays handed out."""
        return list(self._recent)

    def answers(self) -> dict[str, int]:
        """How often each variant has answered."""
        return dict(self._answers)

    def latency(self) -> Latency:
        took = np.array(list(self._took_ms))
        p50, p99 = (float(np.quantile(took, at)) for at in (0.5, 0.99)) if len(took) else (math.nan, math.nan)
        return Latency(p50, p99, sum(self._answers.values()))

    def _remember(self, answered: Answered) -> None:
        with self._turn:
            self._answers[answered.variant] += 1
        if len(answered.conditions) == 1:
            self._took_ms.append(answered.took_ms)
            self._recent.append(answered)

    def _look(self, served: Served) -> _Now:
        table = tuple(self._row(served, variant) for variant in served.variants)
        preferred = tuple(each for each in table if self._preferred is None or each.variant.name in self._preferred)
        return _Now(served, table, preferred or table)

    def _row(self, served: Served, variant: Variant) -> Measured:
        if variant.graph not in served.engines:
            return Measured(variant, absent=NO_FOG if variant.is_remote else NO_GRAPH)
        found = self._measured.get(variant.name)
        return replace(found, variant=variant) if found is not None else Measured(variant)
