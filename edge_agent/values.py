"""The values the agent's parts hand to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

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
        return self.quality in {Quality.OK, Quality.STALE} and self.age_s <= max_age_s and isfinite(self.value)


_NOTHING = Reading(0.0, "", float("inf"), Quality.ABSENT, "not looked for")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The device now. What it does not have is absent, never a number."""

    soc_temp_c: Reading  # the hottest spot of the chip, degrees Celsius
    throttled: Reading  # 1 when heat or power holds the processor back now, else 0
    charge: Reading  # of all batteries together, 0..1
    plugged: Reading  # 1 when the batteries are not being used up, else 0
    trip_c: Reading = _NOTHING  # the lowest temperature at which the chip would be slowed or stopped, degrees Celsius
    under_voltage: Reading = _NOTHING  # 1 while the supply gives too little, else 0
    battery_temp_c: Reading = _NOTHING
    power_w: Reading = _NOTHING  # of the module where its rails are measured, else of the battery; >= 0
    cpu_pressure: Reading = _NOTHING  # share of time in which work waits for the processor, 0..1; the source says how
    memory_pressure: Reading = _NOTHING  # share of time in which work waits for memory, 0..1
    free_memory_mib: Reading = _NOTHING
    metered: Reading = _NOTHING  # 1 when bytes cost money, else 0


class Action(StrEnum):
    """What the governor lets the device do besides answering."""

    TRAIN = "train"
    OFFLOAD = "offload"  # let the fog train in this device's place
    WAIT = "wait"  # for the device or the stream
    SERVE_ONLY = "serve_only"  # until a person changes something


class Reason(StrEnum):
    """Why, in one word that can be counted."""

    READY = "ready"
    FORCED = "forced"
    PAUSED = "paused"
    NOT_INSTALLED = "not_installed"
    BUDGET = "budget"
    HEAT = "heat"
    HEAT_SOON = "heat_soon"
    HEAT_UNKNOWN = "heat_unknown"
    THROTTLED = "throttled"
    UNDER_VOLTAGE = "under_voltage"
    CHARGE = "charge"
    CHARGE_UNKNOWN = "charge_unknown"
    CHARGER = "charger"
    BUSY = "busy"
    MEMORY = "memory"
    METERED = "metered"
    UNKNOWN = "unknown"  # something this device has and does not show
    QUIET = "quiet"
    ENERGY_CAP = "energy_cap"
    TRAFFIC_CAP = "traffic_cap"
    NO_RELEASE = "no_release"
    FEW_SAMPLES = "few_samples"
    DWELL = "dwell"


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of a usual job fits: shares 0..1 of its steps and its batch, and how many columns of each adapter."""

    steps: float = 1.0
    batch: float = 1.0
    rank: int | None = None  # None: all


@dataclass(frozen=True, slots=True)
class Decision:
    """What the device may do, and why: one word and one sentence. `shape`: of a job it begins now.

    `headroom`: what heat and charge leave for answering, from 1 (cool) to 0 (at a limit).
    """

    action: Action
    reason: Reason
    sentence: str
    shape: Shape = Shape()
    headroom: float = 1.0


@dataclass(frozen=True, slots=True)
class Golden:
    """What a release is checked with: noise [N, C, H, W] and conditions [N]; features of real samples, [M, f].

    `teacher`: what the teacher draws from that noise, [N, C, H, W]; `healthy`: harms of K
    honest updates in each local variant, [V, K, 5].
    """

    noise: Array
    conditions: NDArray[np.int64]
    real_features: Array
    teacher: Array
    healthy: Array
    base_fidelity: float
    base_kid: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """One file of the stream. `digest`: sha256 of its bytes; taken_at_s: [N] epoch seconds.

    A condition is -1 where none came with the sample. ids: [N], what its sender calls each, 0 where nothing; by it one
    that is sent again is known.
    """

    name: str
    digest: str
    batch: Batch
    taken_at_s: NDArray[np.int64]
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NewSample:
    """A sample on its way into memory. `certainty` 0..1 of a condition that was proposed, None when it came with it."""

    features: Array
    embedding: Array
    condition: int
    taken_at_s: int
    rank: float
    certainty: float | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one arrival changes: everything of it is stored, or nothing."""

    arrival: Arrival
    kept: Sequence[NewSample]
    reasons: Mapping[str, int]  # how many samples, by why they were kept, dropped or set aside
    threshold: Threshold
    unsure: int = 0  # of the arrival's samples lie where a person can say what they are


@dataclass(frozen=True, slots=True)
class StreamSigns:
    """`drift`: squared MMD between the stream now and as it was, None until both are known. `diversity`: effective
    number of different ones among the last window, `usual_diversity` as it was. `surprise`: mean of the last window, by
    how much another condition looked likelier than the one that came, below 0 when none did.

    The counts are of alarms since the agent started.
    """

    drift: float | None = None
    diversity: float | None = None
    usual_diversity: float | None = None
    surprise: float | None = None
    drifted: int = 0
    narrowed: int = 0
    surprised: int = 0
    seen: int = 0


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
