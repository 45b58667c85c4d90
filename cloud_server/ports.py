"""What the cloud's decisions need from the world."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cloud_server.consolidation import Buffered
from cloud_server.evaluation import Evaluation
from learning_core.params import Params
from learning_core.updates import Aggregate, ModelVersion
from protos.release import Manifest

Clock = Callable[[], float]  # epoch seconds
Report = Callable[[str, int, int], None]  # (step, done, of)


Publish = Callable[[Mapping[str, bytes], Manifest], str]  # files and the rest of the manifest -> sha256 of the manifest


class Shelf(Protocol):
    """Where the artefacts of long work stand. `write` makes one appear whole or not at all."""

    def has(self, name: str) -> bool: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A candidate that was examined. `version` is the one it got, or would have got; `manifest_sha256`: "" if kept."""

    version: int
    made_from: ModelVersion
    evaluation: Evaluation
    manifest_sha256: str
    examined_at_s: float


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """What became of one (fog, round): `state` is buffered, counted or refused; `counted_in` the shared version."""

    fog: str
    round: int
    state: str
    reason: str
    base_version: ModelVersion
    counted_in: ModelVersion | None


class Registry(Protocol):
    """The cloud's memory. Inside `transaction` all of it happens or none of it does, also when the power goes."""

    def transaction(self) -> AbstractContextManager[None]: ...

    def add_token(self, token_sha256: str, fog: str, now_s: float, valid_until_s: float) -> None: ...
    def enroll(self, token_sha256: str, fog: str, credential_sha256: str, now_s: float) -> str | None:
        """Bind a credential to a fog; the reason when refused. The same call again is answered the same."""

    def fog_of(self, credential_sha256: str) -> str | None: ...
    def fogs(self) -> list[str]: ...

    def digest_of(self, fog: str, number: int) -> tuple[str, str] | None:
        """What was delivered for (fog, round) before: its digest, and why it was refused ("" if it was not)."""

    def add_aggregate(self, aggregate: Aggregate, digest: str, refused: str, now_s: float) -> None: ...
    def buffered(self) -> list[Buffered]: ...
    def buffered_aggregates(self) -> list[Aggregate]: ...
    def aggregates(self) -> list[AggregateRow]: ...

    def shared_version(self) -> ModelVersion | None:
        """The newest; None before the first release."""

    def shared_adapter(self, version: ModelVersion) -> Params: ...
    def add_shared(
        self, version: ModelVersion, adapter: Params, counted: Collection[tuple[str, int]], now_s: float
    ) -> None: ...
    def shared_versions(self) -> list[tuple[ModelVersion, float]]: ...

    def begin_distilling(self, version: ModelVersion, now_s: float) -> None: ...
    def distilling(self) -> ModelVersion | None: ...
    def last_attempt(self, release: int) -> int:
        """The step of the newest candidate made from `release`, 0 when there was none."""

    def end_distilling(self, outcome: str, now_s: float) -> None: ...
    def add_release(self, row: ReleaseRow) -> None: ...
    def releases(self) -> list[ReleaseRow]: ...
    def latest_release(self) -> ReleaseRow | None: ...

    def add_audit(self, event: str, detail: str, now_s: float) -> None: ...
    def audit(self) -> Sequence[tuple[float, str, str]]: ...
