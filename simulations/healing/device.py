"""A simulated device for healing: a real student in ONNX Runtime, around which everything can be made to fail.

What is simulated is said by its name: the time a pass takes, and where a fault lives, which decides what mends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.onnx_engine import OnnxEngine
from edge_agent.hands import Standing
from edge_agent.healing.cache import HealedOutputs
from edge_agent.reruns import passes
from edge_agent.serving import Answered
from learning_core.errors import DewfallError, Tampered
from learning_core.models.onnx_export import reweight
from learning_core.params import Array, Params
from protos.release import STUDENT_GRAPH, USUAL, Variant
from simulations.healing.student import CONDITIONS, Student, engine_of

SHAPE = (1, 8, 8)
PASS_MS, JITTER = 1.0, 0.12  # simulated: what a pass takes, and the spread of its logarithm
CACHED_MS = 0.2
DEADLINE_MS = 12.0  # of a request: twice what it usually takes
REMEMBERED = 64
VARIANTS = (Variant(USUAL, STUDENT_GRAPH, 6, 1.0), Variant("quick", STUDENT_GRAPH, 2, 1.0))


@dataclass(frozen=True, slots=True)
class Broken:
    """What is wrong with the device now; nothing, as it stands."""

    weights: Params | None = None  # of the loaded student
    adapter: Params | None = None
    file: bytes | None = None  # of the student on the disk
    guidance: float | None = None
    noise_scale: float = 1.0
    slow: float = 1.0
    lost: float = 0.0  # share of requests that reach the student without their condition
    unpinned: float = 0.0  # share of the noise that is drawn anew for every request
    session_only: bool = False  # the student or the noise is wrong in memory alone, so loading anew mends it


@dataclass(slots=True)
class SimulatedDevice:
    """One device. `rng`: what chance does to requests; nothing is saved."""

    student: Student
    rng: np.random.Generator
    broken: Broken = field(default_factory=Broken)
    rolled_back: int = 0
    cheaper: bool = False
    cache: HealedOutputs | None = None
    asked_for: tuple[int, ...] = ()
    mended: set[str] = field(default_factory=set)
    _loaded: tuple[Broken, OnnxEngine] | None = None
    _recent: list[Answered] = field(default_factory=list)
    _count: int = 0

    def fork(self, rng: np.random.Generator) -> "SimulatedDevice":
        """The same device with another future."""
        return replace(self, rng=rng, mended=set(self.mended))

    def request(self, conditions: NDArray[np.int64], seeds: Sequence[int]) -> list[Answered]:
        """Requests of others, one sample each."""
        samples, took_ms = self._answer(conditions, np.concatenate([_noise(1, seed) for seed in seeds]))
        name = self._variant.name
        answers = [
            Answered(float(self._next()), (int(condition),), seed, name, ms, sample[None])
            for condition, seed, ms, sample in zip(conditions, seeds, took_ms, samples, strict=True)
        ]
        self._recent = [*self._recent, *answers][-REMEMBERED:]
        return answers

    def standing(self) -> Standing:
        live = tuple(
            replace(each, guidance=each.guidance if self.broken.guidance is None else self.broken.guidance)
            for each in VARIANTS
        )
        known = tuple(range(CONDITIONS))
        identity = f"good-{self.rolled_back}"
        return Standing(identity, self.student.judge, SHAPE, CONDITIONS, known, VARIANTS, live, self.cache)

    def recent(self) -> Sequence[Answered]:
        return self._recent

    def ask(self, conditions: Sequence[int], seed: int) -> Answered:
        wanted = np.array(conditions, np.int64)
        if not wanted.size or wanted.min() < 0 or wanted.max() >= CONDITIONS:
            raise DewfallError(f"ask for conditions within 0..{CONDITIONS - 1}")
        samples, took_ms = self._answer(wanted, _noise(len(wanted), seed))
        return Answered(float(self._next()), tuple(conditions), seed, self._variant.name, float(sum(took_ms)), samples)

    def draw(self, noise: Array, conditions: NDArray[np.int64], variant: str, *, as_set: bool) -> Array:
        standing = self.standing()
        variants = standing.live if as_set else standing.intended
        chosen = next((each for each in variants if each.name == variant), variants[0])
        scale = self.broken.noise_scale if as_set else 1.0
        return self._engine().generate(noise * np.float32(scale), conditions, chosen.steps, chosen.guidance)

    def files_sound(self) -> bool:
        return self.broken.file is None or self.broken.file == self.student.graph

    def reverify(self) -> None:
        if not self.files_sound():
            raise Tampered("the student's file is not what the manifest says")
        self.cache = None
        if self.broken.session_only:
            self.broken = replace(self.broken, weights=None, unpinned=0.0)
            self.mended |= {"weights", "flicker"}

    def restore_sampler(self) -> None:
        self.broken = replace(self.broken, guidance=None, noise_scale=1.0)
        self.mended.add("sampler")

    def prefer_cheaper(self) -> None:
        self.cheaper = True

    def prefer_usual(self) -> None:
        self.cheaper = False

    def roll_back(self, reason: str, identity: str) -> None:  # noqa: ARG002 - the port's
        self._still(identity)
        self.broken = replace(self.broken, weights=None, adapter=None, file=None)
        self.cache = None  # it is of another student
        self.rolled_back += 1
        self.mended |= {"weights", "adapter", "file"}

    def answer_from(self, cache: HealedOutputs, identity: str) -> None:
        self._still(identity)
        self.cache = cache

    def ask_for_data(self, conditions: Sequence[int]) -> None:
        self.asked_for = tuple(conditions)

    def _still(self, identity: str) -> None:
        if identity != self.standing().identity:
            raise DewfallError("what is served was exchanged meanwhile, so nothing was changed")

    @property
    def _variant(self) -> Variant:
        return self.standing().live[1 if self.cheaper else 0]

    def _answer(self, conditions: NDArray[np.int64], noise: Array) -> tuple[Array, list[float]]:
        """Through the door: samples [N, C, H, W] and how long each took, in simulated milliseconds."""
        broken, variant, rows = self.broken, self._variant, len(conditions)
        pairs = zip(conditions, noise, strict=True)
        kept = [self.cache.near(int(each), row) if self.cache else None for each, row in pairs]
        fresh = self.rng.standard_normal(noise.shape, np.float32)
        share = np.float32(broken.unpinned)
        mixed = np.sqrt(1 - share**2) * noise + share * fresh if share else noise
        lost = self.rng.random(rows) < broken.lost
        reached = np.where(lost, CONDITIONS, conditions)
        drawn = self._engine().generate(
            (mixed * np.float32(broken.noise_scale)).astype(np.float32), reached, variant.steps, variant.guidance
        )
        jitter = np.exp(JITTER * self.rng.standard_normal(rows))
        took = [float(each) for each in PASS_MS * passes(variant) * broken.slow * jitter]
        samples = np.stack([one if one is not None else other for one, other in zip(kept, drawn, strict=True)])
        return samples, [CACHED_MS if one is not None else ms for one, ms in zip(kept, took, strict=True)]

    def _engine(self) -> OnnxEngine:
        """The student as it is now, loaded when it broke."""
        broken = self.broken
        if broken.weights is None and broken.file is None:
            engine = self.student.engine
        else:
            if self._loaded is None or self._loaded[0] is not broken:
                weights = reweight(self.student.graph, broken.weights) if broken.weights is not None else b""
                self._loaded = (broken, engine_of(weights or broken.file or self.student.graph))
            engine = self._loaded[1]
        return engine if broken.adapter is None else engine.adapted(broken.adapter)

    def _next(self) -> int:
        self._count += 1
        return self._count


def _noise(rows: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, *SHAPE), np.float32)
