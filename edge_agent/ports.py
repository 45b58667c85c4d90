"""The seams behind which the agent's drivers sit, and what they hand over that is alive."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.slots import Slots
from edge_agent.values import Answer, Arrival, Decision, Fitted, Golden, Ingested, NotFitted, Shape, Telemetry
from learning_core.federation.accountant import Spending
from learning_core.memory.keep_budget import Threshold
from learning_core.memory.novelty import Kept
from learning_core.params import Array, Params
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.release import STUDENT_GRAPH, Manifest


class Engine(Protocol):
    """A loaded student with one adapter on it (or none). Never changes: another adapter is another engine.

    Any thread may use it at any time. Batches have at least one row.
    """

    def adapted(self, inputs: Params | None) -> "Engine":
        """The same student with other adapter inputs, by the exact names of the graph, or none. Raises Malformed."""
        ...

    def embed(self, features: Array) -> Array:
        """What samples are about, without any adapter: [B, C, H, W] -> [B, d]."""
        ...

    def generate(self, noise: Array, conditions: NDArray[np.int64], steps: int, guidance: float) -> Array:
        """Samples [B, C, H, W] from noise of that shape for conditions [B]; they are the caller's.

        Equal noise and conditions give equal samples. Each row depends on its own noise and condition, and on those
        beside it only as far as a graph rounds.
        """
        ...


class Judge(Protocol):
    """Looks at samples from outside, each for itself. Any thread may use it at any time."""

    def look(self, samples: Array) -> tuple[Array, Array]:
        """[N, C, H, W] -> logits [N, K], features [N, f]; of samples that are not finite, whatever comes of them."""
        ...


@dataclass(frozen=True, slots=True)
class Release:
    """A verified, loaded release. `digest` is the sha256 of its manifest; `engines` by the name of their graph."""

    manifest: Manifest
    digest: str
    folder: str
    engines: Mapping[str, Engine]
    judge: Judge
    golden: Golden
    start: Params

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def engine(self) -> Engine:
        """The float32 student's."""
        return self.engines[STUDENT_GRAPH]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.golden.noise.shape[1:]


class Memory(Protocol):
    """The kept samples, on disk: every change is whole or not at all, and outlives the process. Raises StateError."""

    def threshold(self) -> Threshold:
        """Of the last arrival that was stored; a new one before the first."""
        ...

    def kept(self) -> Kept:
        """The embeddings of all samples."""
        ...

    def size(self) -> int: ...

    def newest_key(self) -> int:
        """Of the last sample that was ever kept, whatever became of it; keys only grow. 0 before the first."""
        ...

    def samples(self) -> tuple[Batch, int]:
        """All samples, the oldest first, and the key of the newest of them; none and 0 where there are none."""
        ...

    def mark_trained(self, newest: int) -> None:
        """Samples up to this key have taken part in a fit."""
        ...

    def knows(self, name: str, digest: str) -> bool:
        """Whether a file of this name and these bytes was stored, and not forgotten since."""
        ...

    def knows_ids(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which observations were stored before, [N]; 0 is nobody's id."""
        ...

    def store(self, ingested: Ingested, max_bytes: int) -> None:
        """All that an arrival changes; of the samples, as many as fit into so many bytes."""
        ...

    def forget_arrival(self, name: str) -> None:
        """The file is gone, so its name may come again. Its samples and their ids stay."""
        ...

    def base(self) -> str:
        """The digest of the release that embedded what is kept, "" before the first."""
        ...

    def rebase(self, digest: str, embed: Callable[[Array], Array], shape: tuple[int, ...], num_conditions: int) -> None:
        """Embed everything anew, and forget what a release with this shape and these conditions has no place for."""
        ...


class Source(Protocol):
    """Where samples come from, in files of any program's making."""

    def pending(self) -> list[str]:
        """Names of the whole files that wait, in the order of their names, which is the order they are taken in."""
        ...

    def load(self, name: str, sample_shape: tuple[int, ...], num_conditions: int) -> Arrival | None:
        """One file, which goes on waiting; None when it is gone. Raises Malformed."""
        ...

    def done(self, name: str) -> bool:
        """The file has been taken in and can go; whether it is gone. It waits no more, either way."""
        ...

    def refuse(self, name: str, reason: str) -> None:
        """Put the file where a person can look at it, with the reason beside it. It waits no more."""
        ...

    def set_aside(self, arrival: Arrival, row: int, reason: str) -> None:
        """Put one of an arrival's samples where a person can say what it is. The same one twice is one."""
        ...


class Journal(Protocol):
    """What must not be forgotten or done twice, on disk. Raises StateError."""

    def answered(self, fog: str, round_: int) -> bool:
        """Whether an answer to this round of this fog was ever recorded."""
        ...

    def answer(self, fog: str, round_: int) -> Answer | None:
        """What was recorded for a fog's latest rounds, to the bit; None of rounds long past, or where it is damaged."""
        ...

    def record(self, fog: str, round_: int, answer: Answer, spending: Spending) -> None:
        """Answer and charge, both or neither. Raises StateError, also for a round that was answered before."""
        ...

    def spendings(self) -> list[Spending]:
        """All charges ever; rounds that cost the same are one."""
        ...

    def tally(self, what: str) -> None:
        """One more of something that is only counted."""
        ...


class Shelf(Protocol):
    """The releases on this device, none of them believed before it was verified and tried."""

    def install(self, version: int, digest: str) -> Release:
        """Fetch, verify and try one; one that is there already is not fetched again.

        Raises DewfallError; then every other version is as it was, and what was wrong with this one bans it.
        """
        ...

    def load(self, version: int) -> Release:
        """One that was installed before, verified again. Raises DewfallError; then nothing changed."""
        ...

    def set_aside(self, version: int) -> str:
        """Move one out of the way; where it is now. Raises DewfallError, also where there is none."""
        ...

    def versions(self) -> list[int]:
        """What is installed, newest first."""
        ...

    def digest_of(self, version: int) -> str | None:
        """Of the manifest of one that is installed, None of others."""
        ...

    def prune(self, kept: Collection[int]) -> None:
        """Forget all but these, with what was learned on them."""
        ...

    def ban_on(self, digest: str) -> str | None:
        """Why a release must not be installed now, in words; None where it may be."""
        ...

    def adapter(self, release: Release, kind: str, name: str) -> Params | None:
        """An adapter this device learned on a release, by its digest; None where its bytes are not those any more."""
        ...

    def keep_adapter(self, release: Release, kind: str, adapter: Params) -> str:
        """Store one; its digest."""
        ...

    def keep_only(self, release: Release, kind: str, names: Collection[str]) -> None:
        """Remove all others of a kind."""
        ...

    def drop(self, kind: str) -> None:
        """Remove all adapters of a kind, of every release."""
        ...


class SlotStore(Protocol):
    """What is served, on trial and banned, on disk. `kind`: see `slots`; `release`: its digest, for adapters."""

    def slots(self, kind: str, release: str = "") -> Slots:
        """As they were stored last; empty ones before that."""
        ...

    def store(self, kind: str, release: str, slots: Slots, banned: Mapping[str, str]) -> None:
        """Both or neither; `banned`: digests and why."""
        ...

    def ban(self, banned: Mapping[str, str]) -> None:
        """Digests and why, until somebody lifts it."""
        ...

    def drop(self, kind: str) -> None:
        """Forget the slots of a kind of adapter, of every release; what is banned stays so."""
        ...

    def bans(self) -> list[dict[str, Any]]:
        """What is banned now: `digest`, `reason`, and its end in `until_s` (epoch seconds, None for no end)."""
        ...

    def ban_on(self, digest: str) -> str | None:
        """Why something is banned now, None where it is not."""
        ...

    def lift(self, digest: str) -> bool:
        """It may come again; whether it was banned."""
        ...


class Facts(Protocol):
    """Small JSON values that outlive the process. Raises StateError."""

    def fact(self, name: str) -> Any:
        """As it was set last, a copy of its own; None before that."""
        ...

    def set_fact(self, name: str, value: Any) -> None: ...


class TelemetrySource(Protocol):
    """Reads the device. Always comes back, and raises nothing: what cannot be read has a quality that says so."""

    def read(self) -> Telemetry:
        """Figures that are known are finite, in the units and ranges of `Telemetry`, and at least 0 s old."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One local fit. The same `name` always means the same start and the same samples.

    `shape`: how much of the usual job the device can afford; `ahead`: what the device will be charged for the answer.
    """

    name: str
    release: Release
    shared: Params
    base_version: ModelVersion
    samples: Batch
    deadline_s: float
    shape: Shape = field(default_factory=Shape)
    ahead: tuple[Spending, ...] = ()


class Trainer(Protocol):
    """Runs a fit, here or elsewhere, for as long as the decision allows it."""

    def fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted:
        """An adapter of the job's names and shapes, or why there is none: in words, those of a decision against it."""
        ...
