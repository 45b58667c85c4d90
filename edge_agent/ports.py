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
    """A loaded student with one adapter on it (or none). Never changes: another adapter is another engine."""

    def adapted(self, inputs: Params | None) -> "Engine":
        """The same student with these adapter inputs, by the exact names of the graph. Raises Malformed."""
        ...

    def embed(self, features: Array) -> Array:
        """What samples are about, without any adapter: [B, C, H, W] -> [B, d]."""
        ...

    def generate(self, noise: Array, conditions: NDArray[np.int64], steps: int, guidance: float) -> Array:
        """Samples [B, C, H, W] from noise of that shape for conditions [B]."""
        ...


class Judge(Protocol):
    """Looks at samples from outside."""

    def look(self, samples: Array) -> tuple[Array, Array]:
        """[N, C, H, W] -> logits [N, K], features [N, f]."""
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
    """The kept samples, on disk."""

    def threshold(self) -> Threshold: ...
    def kept(self) -> Kept: ...
    def size(self) -> int: ...
    def samples(self) -> tuple[Batch, int]: ...
    def mark_trained(self, newest: int) -> None: ...
    def knows(self, name: str, digest: str) -> bool: ...
    def knows_ids(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]: ...
    def store(self, ingested: Ingested, max_bytes: int) -> None: ...
    def forget_arrival(self, name: str) -> None: ...
    def base(self) -> str: ...
    def rebase(
        self, digest: str, embed: Callable[[Array], Array], shape: tuple[int, ...], num_conditions: int
    ) -> None: ...


class Source(Protocol):
    """Where samples come from, in files of any program's making."""

    def pending(self) -> list[str]:
        """Names of the files that wait, in the order they are to be taken."""
        ...

    def load(self, name: str, sample_shape: tuple[int, ...], num_conditions: int) -> Arrival | None:
        """One file, None when it is gone. Raises Malformed."""
        ...

    def done(self, name: str) -> bool:
        """The file has been taken in and can go; whether it is gone."""
        ...

    def refuse(self, name: str, reason: str) -> None:
        """Put the file where a person can look at it, with the reason beside it."""
        ...

    def set_aside(self, arrival: Arrival, row: int, reason: str) -> None:
        """Put one of an arrival's samples where a person can say what it is. The same one twice is one."""
        ...


class Journal(Protocol):
    """What must not be forgotten or done twice, on disk."""

    def answered(self, fog: str, round_: int) -> bool: ...
    def answer(self, fog: str, round_: int) -> Answer | None: ...
    def record(self, fog: str, round_: int, answer: Answer, spending: Spending) -> None: ...
    def spendings(self) -> list[Spending]: ...
    def tally(self, what: str) -> None: ...


class Shelf(Protocol):
    """The releases on this device, none of them believed before it was verified and tried."""

    def install(self, version: int, digest: str) -> Release:
        """Fetch, verify and try one. Raises DewfallError; then nothing changed."""
        ...

    def load(self, version: int) -> Release:
        """One that was installed before, verified again. Raises DewfallError."""
        ...

    def set_aside(self, version: int) -> str:
        """Move one out of the way; where it is now."""
        ...

    def versions(self) -> list[int]:
        """What is installed, newest first."""
        ...

    def digest_of(self, version: int) -> str | None:
        """Of the manifest of one that is installed."""
        ...

    def prune(self, kept: Collection[int]) -> None:
        """Forget all but these, with what was learned on them."""
        ...

    def ban_on(self, digest: str) -> str | None:
        """Why a release must not be installed now."""
        ...

    def adapter(self, release: Release, kind: str, name: str) -> Params | None:
        """An adapter this device learned on a release, by its digest."""
        ...

    def keep_adapter(self, release: Release, kind: str, adapter: Params) -> str:
        """Store one; its digest."""
        ...

    def keep_only(self, release: Release, kind: str, names: Collection[str]) -> None:
        """Remove all others of a kind."""
        ...


class SlotStore(Protocol):
    """What is served, on trial and banned, on disk. `kind`: see `slots`; `release`: its digest, for adapters."""

    def slots(self, kind: str, release: str = "") -> Slots: ...

    def store(self, kind: str, release: str, slots: Slots, banned: Mapping[str, str]) -> None:
        """Both or neither; `banned`: digests and why."""
        ...

    def ban(self, banned: Mapping[str, str]) -> None: ...

    def drop(self, kind: str) -> None:
        """Forget the slots of a kind, of every release."""
        ...

    def bans(self) -> list[dict[str, Any]]: ...
    def ban_on(self, digest: str) -> str | None: ...
    def lift(self, digest: str) -> bool: ...


class Facts(Protocol):
    """Small JSON values that outlive the process."""

    def fact(self, name: str) -> Any: ...
    def set_fact(self, name: str, value: Any) -> None: ...


class TelemetrySource(Protocol):
    """Reads the device, and always comes back."""

    def read(self) -> Telemetry: ...


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

    def fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted: ...
