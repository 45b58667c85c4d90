"""The seams behind which the agent's drivers sit, and what they hand over that is alive."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.values import Answer, Arrival, Decision, Fitted, Golden, Ingested, NotFitted, Telemetry
from learning_core.federation.accountant import Spending
from learning_core.memory.keep_budget import Threshold
from learning_core.memory.novelty import Kept
from learning_core.params import Array, Params
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.release import Manifest


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
    """A verified, loaded release. `digest` is the sha256 of its manifest."""

    manifest: Manifest
    digest: str
    folder: str
    engine: Engine
    judge: Judge
    golden: Golden
    start: Params

    @property
    def version(self) -> int:
        return self.manifest.version

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

    def refuse(self, name: str) -> None:
        """Put the file where a person can look at it."""
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

    def prune(self, served: int) -> None:
        """Forget all but the served one and one other."""
        ...

    def ban_on(self, digest: str) -> str | None:
        """Why a release must not be installed now."""
        ...

    def adapter(self, release: Release) -> Params | None:
        """The adapter this device learned on a release."""
        ...

    def keep_adapter(self, release: Release, adapter: Params) -> None: ...


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

    `effort`: which share 0..1 of the usual steps the device can afford.
    """

    name: str
    release: Release
    shared: Params
    base_version: ModelVersion
    samples: Batch
    deadline_s: float
    effort: float = 1.0


class Trainer(Protocol):
    """Runs a fit for as long as the decision is to train."""

    def fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted: ...
