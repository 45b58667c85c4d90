"""What a fog and the cloud have to say to each other, in one exchange that may break off anywhere.

Aggregates go up in the order of their rounds, each until it is acknowledged; the cloud counts each once. Releases and
shared adapters come down and are adopted whole or not at all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fog_aggregator.plans import Mirrored
from fog_aggregator.ports import Cloud, Journal, Mirror
from learning_core.params import shapes_of
from learning_core.updates import ModelVersion
from protos.cloud_messages import Ack, Latest
from protos.codec import check_shapes

NOTHING = ModelVersion(0)


@dataclass(frozen=True, slots=True)
class Delivered:
    """An aggregate the cloud has now, or will never take."""

    round: int
    ack: Ack


@dataclass(frozen=True, slots=True)
class ReleaseAdopted:
    """A release is mirrored and rounds start from it."""

    release: Mirrored


@dataclass(frozen=True, slots=True)
class SharedAdopted:
    """Rounds start from this shared adapter."""

    version: ModelVersion


Exchanged = Delivered | ReleaseAdopted | SharedAdopted


def exchange(
    journal: Journal,
    cloud: Cloud,
    mirror: Mirror,
    reached: Callable[[str], None],
    heard: Callable[[Latest], None] = lambda _: None,
) -> Iterator[Exchanged]:
    """Send what is due, then take what is new; `heard` is told how the cloud stands.

    Raises LinkDown, and Tampered or Malformed for a bad release.
    """
    while (aggregate := journal.outgoing()) is not None:
        ack = cloud.push(aggregate)
        reached("outbox.sent")
        journal.acknowledge(aggregate.round, ack)
        reached("outbox.acknowledged")
        yield Delivered(aggregate.round, ack)
    yield from _adopt_mirrored(journal, mirror)
    latest = cloud.poll(known_version(journal))
    mirrored = mirror.latest()
    if latest.release > (mirrored[0].version if mirrored else 0):
        mirror.install(Mirrored(latest.release, latest.manifest_sha256), cloud)
        reached("release.mirrored")
        yield from _adopt_mirrored(journal, mirror)
        latest = cloud.poll(known_version(journal))
    yield from _adopt_shared(journal, latest)
    heard(latest)


def known_version(journal: Journal) -> ModelVersion:
    base = journal.base()
    return base.version if base else NOTHING


def _adopt_mirrored(journal: Journal, mirror: Mirror) -> Iterator[ReleaseAdopted]:
    """Also after a crash between the mirror's rename and the journal."""
    if (found := mirror.latest()) is not None and found[0].version > known_version(journal).release:
        journal.adopt_release(*found)
        yield ReleaseAdopted(found[0])


def _adopt_shared(journal: Journal, latest: Latest) -> Iterator[SharedAdopted]:
    base = journal.base()
    if base is None or latest.adapter is None or latest.shared.release != base.version.release:
        return
    if latest.shared > base.version:
        check_shapes(shapes_of(latest.adapter), shapes_of(base.shared))
        journal.adopt_shared(latest.shared, latest.adapter)
        yield SharedAdopted(latest.shared)
