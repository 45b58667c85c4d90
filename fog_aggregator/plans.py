"""The values a fog's parts hand to each other: what a round starts from, who is in it, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from learning_core.params import Params
from learning_core.updates import ModelVersion


@dataclass(frozen=True, slots=True)
class Terms:
    """What every round costs: updates at most `clip_norm` long, each device asked with chance `sample_rate`."""

    clip_norm: float
    noise_multiplier: float
    sample_rate: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What a device may be charged in all: at most `max_epsilon` at `target_delta`."""

    target_delta: float
    max_epsilon: float


@dataclass(frozen=True, slots=True)
class Base:
    """What the next round starts from: the newest mirrored release and its shared adapter."""

    version: ModelVersion
    shared: Params
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """A round as it was opened. `enrolled`: all node ids whose coin was tossed; `cohort`: those whose coin fell."""

    number: int
    base_version: ModelVersion
    shared: Params
    enrolled: tuple[int, ...]
    cohort: tuple[int, ...]
    terms: Terms

    @property
    def expected_cohort(self) -> float:
        """The fixed denominator: how many devices the coins choose on average."""
        return self.terms.sample_rate * len(self.enrolled)


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """Who was counted, and why the others were not. Counts and means are for the fog's operator and stay here."""

    round: int
    base_version: ModelVersion
    num_enrolled: int
    cohort: tuple[int, ...]
    accepted: tuple[int, ...]
    declined: Mapping[int, str]
    refused: Mapping[int, str]
    silent: Mapping[int, str]
    num_examples: int
    metrics: Mapping[str, float]
    seconds: float
    epsilon: float  # of the device charged most, this round included


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A verified release on this fog's disk."""

    version: int
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device. `public_key`: PEM."""

    node_id: int
    name: str
    public_key: bytes
