"""What is done to a simulated device: each fault by how far it has come, from 0 (nothing) to 1 (all of it)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_agent.healing.diagnosis import Cause
from learning_core.models.onnx_export import reweight
from learning_core.models.onnx_graph import LABEL_DELTA
from learning_core.params import Array, Params
from simulations.healing.device import Broken
from simulations.healing.student import Student

RAMP_TICKS = 15
FLIPPED_BITS = 400


@dataclass(frozen=True, slots=True)
class Hit:
    """Whom a fault hits, how far it has come (0..1], and what chance made of it."""

    student: Student
    far: float
    seed: int


Break = Callable[[Broken, Hit], Broken]


@dataclass(frozen=True, slots=True)
class Fault:
    """`mended_by`: names of what mends it; `cause`: what a right diagnosis says; `weak_share`: of the requests."""

    name: str
    cause: Cause | None
    apply: Break
    mended_by: frozenset[str] = frozenset()
    weak_share: float = 0.0
    one_condition: bool = False  # is asked for, and no other


def progress(ticks_since: int, *, ramped: bool) -> float:
    """How far a fault has come in its tick 0, 1, ...: all at once, or in a straight line."""
    return min(1.0, (ticks_since + 1) / RAMP_TICKS) if ramped else 1.0


def noised_weights(weights: Params, spreads: float, seed: int) -> dict[str, Array]:
    """Every tensor with normal noise of so many of its own standard deviations."""
    rng = np.random.default_rng(seed)
    return {
        name: (value + spreads * value.std() * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in weights.items()
    }


def flipped(weights: Params, bits: int, seed: int) -> dict[str, Array]:
    """The weights with so many bits of their bytes turned."""
    rng = np.random.default_rng(seed)
    names = sorted(weights)
    sizes = np.array([weights[name].size for name in names])
    found = {name: weights[name].copy() for name in names}
    which = rng.choice(len(names), bits, p=sizes / sizes.sum())
    for name in which:
        words = found[names[name]].reshape(-1).view(np.uint32)
        words[rng.integers(len(words))] ^= np.uint32(1 << int(rng.integers(32)))
    return found


@dataclass(frozen=True, slots=True)
class NoisedWeights:
    """Weights with noise of so many of their standard deviations."""

    spreads: float

    def __call__(self, broken: Broken, hit: Hit) -> Broken:
        weights = noised_weights(hit.student.weights, hit.far * self.spreads, hit.seed)
        return replace(broken, weights=weights, session_only=hit.seed % 2 == 0)  # for half, only in memory


def _sampler(broken: Broken, hit: Hit) -> Broken:
    return replace(broken, guidance=1 + 8 * hit.far, noise_scale=1 + 0.8 * hit.far)


def _throttle(broken: Broken, hit: Hit) -> Broken:
    return replace(broken, slow=1 + 2 * hit.far)


def _lost(broken: Broken, hit: Hit) -> Broken:
    return replace(broken, lost=0.6 * hit.far)


def _flicker(broken: Broken, hit: Hit) -> Broken:
    return replace(broken, unpinned=hit.far, session_only=hit.seed % 2 == 0)


def _corrupt(broken: Broken, hit: Hit) -> Broken:
    bits = max(1, round(hit.far * FLIPPED_BITS))
    return replace(broken, file=reweight(hit.student.graph, flipped(hit.student.weights, bits, hit.seed)))


def _benign(broken: Broken, hit: Hit) -> Broken:
    adapter = {
        name: value * np.float32(hit.far) if name.endswith("lora_B") or name == LABEL_DELTA else value
        for name, value in hit.student.benign.items()
    }
    return replace(broken, adapter=adapter)


def _nothing(broken: Broken, _: Hit) -> Broken:
    return broken


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("weights 0.3", Cause.MODEL, NoisedWeights(0.3), frozenset({"weights"})),
        Fault("weights 0.6", Cause.MODEL, NoisedWeights(0.6), frozenset({"weights"})),
        Fault("weights 1.2", Cause.MODEL, NoisedWeights(1.2), frozenset({"weights"})),
        Fault("sampler", Cause.SAMPLER, _sampler, frozenset({"sampler"})),
        Fault("throttle", Cause.THROTTLE, _throttle),
        Fault("lost condition", Cause.CONDITION, _lost),
        Fault("flicker", Cause.NONDETERMINISM, _flicker, frozenset({"flicker"})),
        Fault("corrupt file", Cause.CORRUPT, _corrupt, frozenset({"file"})),
        Fault("drifting input", Cause.INPUT, _nothing, weak_share=0.7),
        Fault("benign LoRA", Cause.HARMLESS, _benign, frozenset({"adapter"})),
        Fault("one condition", None, _nothing, one_condition=True),
        Fault("none", None, _nothing),
    )
}
PAIRS = (
    ("weights 0.6", "throttle"),
    ("weights 0.6", "sampler"),
    ("sampler", "throttle"),
    ("lost condition", "throttle"),
    ("flicker", "lost condition"),
    ("corrupt file", "sampler"),
    ("drifting input", "throttle"),
)
