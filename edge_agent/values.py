"""The values the agent's parts hand to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from learning_core.memory.keep_budget import Threshold
from learning_core.params import Array, Params
from learning_core.samples import Batch
from learning_core.updates import ClippedUpdate


class Quality(StrEnum):
    """How far a reading can be believed."""

    OK = "ok"
    STALE = "stale"  # the last good value; the source does not answer now
    ABSENT = "absent"
    DENIED = "denied"
    IMPLAUSIBLE = "implausible"


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of the device. `value` means nothing unless the quality is ok or stale."""

    value: float
    unit: str
    age_s: float
    quality: Quality
    source: str

    def is_known(self, max_age_s: float) -> bool:
        return self.quality in {Quality.OK, Quality.STALE} and self.age_s <= max_age_s


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The device now: hottest spot in degrees Celsius; charge 0..1; throttled and plugged are 0 or 1."""

    soc_temp_c: Reading
    throttled: Reading
    charge: Reading
    plugged: Reading


class Action(StrEnum):
    """What the governor lets the device do besides answering."""

    TRAIN = "train"
    WAIT = "wait"  # for the device or the stream
    SERVE_ONLY = "serve_only"  # until a person changes something


class Reason(StrEnum):
    """Why, in one word that can be counted."""

    READY = "ready"
    PAUSED = "paused"
    NOT_INSTALLED = "not_installed"
    BUDGET = "budget"
    HEAT = "heat"
    HEAT_UNKNOWN = "heat_unknown"
    THROTTLED = "throttled"
    CHARGE = "charge"
    CHARGE_UNKNOWN = "charge_unknown"
    NO_RELEASE = "no_release"
    FEW_SAMPLES = "few_samples"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the device may do, and why: one word and one sentence."""

    action: Action
    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class Golden:
    """What a release is checked with. noise: [N, C, H, W]; conditions: [N]; real_features: [M, f]."""

    noise: Array
    conditions: NDArray[np.int64]
    real_features: Array
    base_fidelity: float
    base_kid: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """One file of the stream. `digest`: sha256 of its bytes; taken_at_s: [N] epoch seconds."""

    name: str
    digest: str
    batch: Batch
    taken_at_s: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NewSample:
    """A sample on its way into memory."""

    features: Array
    embedding: Array
    condition: int
    taken_at_s: int
    rank: float


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one arrival changes: everything of it is stored, or nothing."""

    arrival: Arrival
    kept: Sequence[NewSample]
    reasons: Mapping[str, int]  # how many samples, by why they were kept or dropped
    threshold: Threshold


@dataclass(frozen=True, slots=True)
class Answer:
    """What was sent for one round of one fog."""

    update: ClippedUpdate
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of a job: the adapter and how it went. `loss`: mean over the last slice."""

    adapter: Params
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class NotFitted:
    """Why nothing came of a job, in a sentence; what it had learned stays in its checkpoint."""

    reason: str
