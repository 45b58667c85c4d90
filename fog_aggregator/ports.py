"""What the fog needs of the world outside it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.app import RecordDict

from fog_aggregator.plans import Base, Mirrored, RoundOutcome, RoundPlan
from learning_core.federation.accountant import Spending
from learning_core.params import Params, Shapes
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import Ack, Latest


@dataclass(frozen=True, slots=True)
class Reply:
    """A device's answer to one message, or (`content` None) the sentence why there will be none."""

    message_id: str
    node_id: int
    content: RecordDict | None
    error: str


class Fleet(Protocol):
    """The fog's own devices, known by their keys; everything here may be called from several threads."""

    def enroll(self, public_key: bytes, name: str) -> int:
        """Let in the holder of this key (PEM) and say its node id; asking again changes nothing."""
        ...

    def online(self) -> frozenset[int]:
        """Node ids of the devices that were heard of lately."""
        ...

    def push(self, kind: str, payloads: Mapping[int, RecordDict], ttl_s: float) -> dict[str, int]:
        """Send each node its payload; message id -> node id of those that were taken."""
        ...

    def pull(self, message_ids: Collection[str], wait_s: float) -> list[Reply]:
        """The replies there are, each given once; waits up to `wait_s` for the first one."""
        ...

    def traffic(self) -> tuple[int, int]:
        """Bytes from devices and bytes to devices since the start."""
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    """Time as the fog's loop sees it."""

    def now_s(self) -> float:
        """Seconds that only grow; their zero means nothing."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after so long, or earlier when something happened that may matter."""
        ...


class Journal(Protocol):
    """What must not be forgotten or done twice. Each call is one transaction on disk, whole or not at all."""

    def base(self) -> Base | None:
        """What the next round starts from; None before a release is mirrored."""
        ...

    def enrolled(self) -> tuple[int, ...]: ...

    def histories(self) -> Mapping[int, tuple[Spending, ...]]:
        """What each device was charged, by node id."""
        ...

    def next_round(self) -> int: ...

    def open_round(self, plan: RoundPlan) -> None: ...

    def opened(self) -> RoundPlan | None:
        """The round that was opened and neither closed nor abandoned, exactly as it was opened."""
        ...

    def charge(self, plan: RoundPlan) -> None:
        """Charge every enrolled device for this round; again changes nothing."""
        ...

    def close_round(self, outcome: RoundOutcome, aggregate: Aggregate) -> None:
        """The end of the round, its aggregate and its place in the outbox, together."""
        ...

    def abandon_round(self, number: int, reason: str) -> None: ...

    def unsettled(self) -> int | None:
        """The closed round whose aggregate is not in the shared adapter yet."""
        ...

    def settle_locally(self, number: int) -> None:
        """Put the round's aggregate into this fog's own shared adapter; again changes nothing."""
        ...

    def outgoing(self) -> Aggregate | None:
        """The oldest aggregate the cloud has not acknowledged."""
        ...

    def acknowledge(self, number: int, ack: Ack) -> None: ...

    def adopt_release(self, release: Mirrored, shapes: Shapes) -> None:
        """Rounds start from this release, with an adapter of zeros, unless they do already or from a newer one."""
        ...

    def adopt_shared(self, version: ModelVersion, shared: Params) -> None:
        """Rounds start from this shared adapter, unless it is not newer; what was closed is then part of it."""
        ...


class Cloud(Protocol):
    """The cloud, as far as a fog speaks with it. Each call raises LinkDown when it cannot be reached now."""

    def push(self, aggregate: Aggregate) -> Ack: ...

    def poll(self, known: ModelVersion) -> Latest: ...

    def fetch(self, release: int, name: str, offset: int) -> Iterator[bytes]:
        """A file of a release, from byte `offset` on, in pieces."""
        ...

    def traffic(self) -> tuple[int, int]:
        """Bytes to the cloud and bytes from it since the start."""
        ...


class Mirror(Protocol):
    """Verified releases on disk, for devices to fetch."""

    def latest(self) -> tuple[Mirrored, Shapes] | None:
        """The newest verified release, and the shapes of its federated adapter."""
        ...

    def install(self, release: Mirrored, cloud: Cloud) -> None:
        """Fetch, verify, and only then show; goes on where a broken transfer stopped. Raises LinkDown or Tampered."""
        ...
