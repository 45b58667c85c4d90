"""One fog with its real journal and mirror, and around it a simulated cloud, simulated devices and a virtual clock."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from edge_agent.session import Device
from fog_aggregator import site as life
from fog_aggregator import uplink
from fog_aggregator.config import Rounds
from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment
from fog_aggregator.drivers.sqlite_journal import SqliteJournal
from fog_aggregator.plans import Budget, Terms
from fog_aggregator.plans import Device as Enrolled
from learning_core.errors import LinkDown, Malformed
from learning_core.federation.aggregation import consolidate
from learning_core.params import Params, zeros
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import Ack, AckVerdict, Latest
from protos.codec import check_shapes
from protos.release import MANIFEST, sum_of, verify_release
from simulations.links import SimulatedFleet, SimulatedLink, VirtualClock, answers_of

_EXCHANGE_S = 0.1
_CHUNK_BYTES = 64 << 10


class SimulatedCloud:
    """The Cloud port in this process: counts each (fog, round) once and consolidates at once. Nothing is saved.

    `away` makes every call fail. `kept` gets every aggregate that was counted.
    """

    def __init__(self, release_key: bytes) -> None:
        self._key = release_key
        self._folders: dict[int, Path] = {}
        self._shared: Params = {}
        self.version = ModelVersion(0)
        self.kept: dict[tuple[str, int], Aggregate] = {}
        self.pushes = 0
        self.away = False
        self.distilling = False
        self.on_kept: Callable[[Aggregate], None] = lambda _: None

    def publish(self, folder: Path) -> None:
        manifest = verify_release(folder, self._key)
        self._folders[manifest.version] = folder
        self.version, self._shared = ModelVersion(manifest.version), zeros(manifest.adapter_shapes)

    def push(self, aggregate: Aggregate) -> Ack:
        self._reach()
        self.pushes += 1
        if (aggregate.fog, aggregate.round) in self.kept:
            return Ack(AckVerdict.DUPLICATE, "", self.version)
        if aggregate.base_version.release != self.version.release:
            return Ack(AckVerdict.REFUSED, "made for another release", self.version)
        check_shapes({name: value.shape for name, value in aggregate.delta.items()}, self._shapes())
        self.kept[aggregate.fog, aggregate.round] = aggregate
        self.on_kept(aggregate)
        self._shared = consolidate(self._shared, [aggregate])
        self.version = ModelVersion(self.version.release, self.version.step + 1)
        return Ack(AckVerdict.ACCEPTED, "", self.version)

    def poll(self, known: ModelVersion) -> Latest:
        self._reach()
        if not self._folders:
            return Latest(0, "", self.version, None)
        newest = max(self._folders)
        digest = sum_of((self._folders[newest] / MANIFEST).read_bytes()).sha256
        adapter = self._shared if known < self.version else None
        return Latest(newest, digest, self.version, adapter, self.distilling)

    def fetch(self, release: int, name: str, offset: int) -> Iterator[bytes]:
        self._reach()
        if release not in self._folders or name not in {path.name for path in self._folders[release].iterdir()}:
            raise Malformed(f"release {release} has no file {name}")
        data = (self._folders[release] / name).read_bytes()[offset:]
        for start in range(0, len(data), _CHUNK_BYTES):
            self._reach()
            yield data[start : start + _CHUNK_BYTES]

    def traffic(self) -> tuple[int, int]:
        return 0, 0

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self._shared.items()}

    def _reach(self) -> None:
        if self.away:
            raise LinkDown("the simulated cloud is away")


class SimulatedSite:
    """A fog's life on a virtual clock. Saved by the journal and mirror in `state`; build it again to restart."""

    def __init__(
        self,
        state: Path,
        name: str,
        cloud: SimulatedCloud,
        release_key: bytes,
        devices: Mapping[str, Device],
        terms: Terms,
        budget: Budget,
        pace: Rounds,
        seed: int = 0,
        delays_s: Mapping[str, float] | None = None,
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.clock = VirtualClock()
        self.fleet = SimulatedFleet(self.clock)
        self.cloud = cloud
        self._file = JournalFile(state, reached)
        self._reached = reached
        self._distilling = False
        self.journal = SqliteJournal(self._file, name)
        self.enrolment = SqliteEnrolment(self._file)
        self.mirror = ReleaseMirror(state / "releases", release_key, reached)
        self.links: dict[str, SimulatedLink] = {}
        self.nodes: dict[str, int] = {}
        for label, device in devices.items():
            self.links[label] = SimulatedLink(answers_of(device), delays_s or {})
            self.nodes[label] = self.fleet.join(label.encode(), self.links[label])
            if self.nodes[label] not in self.journal.enrolled():
                self.enrolment.bind(self.enrolment.make_token(), label.encode())
                self.enrolment.admit(Enrolled(self.nodes[label], label, label.encode()))
        rngs = np.random.default_rng(seed)
        self.site = life.Site(
            name,
            terms,
            budget,
            pace,
            self.journal,
            self.fleet,
            self.clock,
            lambda: np.random.default_rng(rngs.integers(2**63)),
            lambda: False,
            reached,
            lambda: "the cloud is making the next release" if self._distilling else "",
        )
        self._look_up()

    def turn(self) -> list[life.Event]:
        """One turn of the fog's life, with the exchange with the cloud going on beside it."""
        return list(life.turn(self.site))

    def exchange(self) -> list[uplink.Exchanged]:
        """One whole exchange with the cloud; nothing when it is away."""
        try:
            return list(uplink.exchange(self.journal, self.cloud, self.mirror, self._reached, self._heard))
        except LinkDown:
            return []

    def close(self) -> None:
        self._file.close()

    def _heard(self, latest: Latest) -> None:
        self._distilling = latest.distilling

    def _look_up(self) -> None:
        if self.exchange():
            self.clock.wake()
        self.clock.at(self.clock.now_s() + _EXCHANGE_S, self._look_up)
