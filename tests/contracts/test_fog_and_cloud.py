"""The two ends of the uplink as they are built, over real gRPC: a fog's exchange and the cloud's service."""

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_server.app import issue_token
from cloud_server.config import Release
from cloud_server.drivers.grpc_service import CloudService, start_service
from cloud_server.drivers.identity import CA_CERTIFICATE, ensure_certificates
from cloud_server.drivers.release_folder import ReleaseFolder
from cloud_server.drivers.sqlite_registry import SqliteRegistry
from cloud_server.drivers.traffic import Traffic
from cloud_server.evaluation import Evaluation, Quality
from cloud_server.exchange import Exchange
from cloud_server.ports import ReleaseRow
from fog_aggregator.drivers.cloud_link import CloudLink
from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.drivers.sqlite_journal import SqliteJournal
from fog_aggregator.plans import RoundOutcome, RoundPlan, Terms
from fog_aggregator.uplink import Delivered, ReleaseAdopted, SharedAdopted, exchange
from learning_core.errors import ConfigError, Malformed
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import AckVerdict
from protos.release import Manifest, usual

NOW_S = 1.7e9
STUDENT = np.random.default_rng(0).bytes(3 << 20)
MANIFEST = Manifest(
    version=1,
    family="flow_image",
    model={},
    rank=1,
    alpha=1.0,
    adapter_shapes={"w": (3,)},
    steps=1,
    guidance=1.0,
    known_conditions=(0,),
    num_conditions=2,
    max_fidelity_drop=0.02,
    max_kid_rise=0.2,
    max_out_of_range=0.05,
    variants=(usual(1, 1.0),),
)


class Cloud:
    """The cloud's service, with release 1 published and a token for fog-a."""

    def __init__(self, state: Path) -> None:
        key = Ed25519PrivateKey.generate()
        self.release_key = key.public_key().public_bytes_raw()
        self.registry = SqliteRegistry.open(state / "registry.sqlite")
        self.releases = ReleaseFolder(state / "releases", key)
        self.exchange = Exchange(self.registry, Release(patience_s=0), {}, lambda: NOW_S)
        self.publish(1)
        self.token = issue_token(self.registry, "fog-a", 1.0, NOW_S)
        keys = ensure_certificates(state, ("127.0.0.1",), NOW_S)
        service = CloudService(self.exchange, self.releases.path_of, Traffic())
        self.server, self.port = start_service(service, "127.0.0.1", 0, *keys)
        self.authority = (state / CA_CERTIFICATE).read_bytes()

    def publish(self, version: int) -> None:
        draft = Manifest(**{name: getattr(MANIFEST, name) for name in MANIFEST.__slots__} | {"version": version})
        sha256 = self.releases.publish({"student.onnx": STUDENT}, draft)
        quality = Quality(
            fidelity={0: 1.0},
            images_per_condition=40,
            kid_old=0.0,
            fid_old=0.0,
            kid_new=None,
            fid_new=None,
            out_of_range=0.0,
        )
        evaluation = Evaluation(quality=quality, publish=True, reasons=("first",), known=(0,), as_base=quality)
        row = ReleaseRow(version, ModelVersion(version - 1, 1), evaluation, sha256, NOW_S)
        self.exchange.conclude(row, MANIFEST.adapter_shapes)

    def close(self) -> None:
        self.server.stop(0).wait()
        self.registry.close()


class Fog:
    """A fog's journal, mirror and line to the cloud."""

    def __init__(self, state: Path, cloud: Cloud) -> None:
        self.file = JournalFile(state)
        self.journal = SqliteJournal(self.file, "fog-a")
        self.mirror = ReleaseMirror(state / "releases", cloud.release_key)
        self.link = CloudLink(f"127.0.0.1:{cloud.port}", cloud.authority, "fog-a", "c" * 64)

    def exchange(self):
        return list(exchange(self.journal, self.link, self.mirror, lambda _: None))

    def finish_round(self, change: float) -> None:
        base, number = self.journal.base(), self.journal.next_round()
        plan = RoundPlan(number, base.version, base.shared, (1, 2), (1,), Terms(1.0, 0.0, 1.0))
        outcome = RoundOutcome(number, base.version, 0, (), (), {}, {}, {}, 0, {}, 0.1, 0.0)
        self.journal.open_round(plan)
        delta = {"w": np.full(3, change, np.float32)}
        self.journal.close_round(outcome, Aggregate(delta, 2.0, base.version, "fog-a", number))

    def close(self) -> None:
        self.link.close()
        self.file.close()


@pytest.fixture
def cloud(tmp_path):
    (tmp_path / "cloud").mkdir()
    cloud = Cloud(tmp_path / "cloud")
    yield cloud
    cloud.close()


@pytest.fixture
def fog(tmp_path, cloud):
    fog = Fog(tmp_path / "fog", cloud)
    yield fog
    fog.close()


def test_a_fog_enrols_mirrors_delivers_and_adopts(fog, cloud):
    fog.link.enroll(cloud.token)
    fog.link.enroll(cloud.token)  # after a crash before it was written down
    (mirrored,) = fog.exchange()
    fog.finish_round(0.5)

    delivered, adopted = fog.exchange()

    assert isinstance(mirrored, ReleaseAdopted)
    assert fog.mirror.file(1, "student.onnx").read_bytes() == STUDENT
    assert isinstance(delivered, Delivered)
    assert delivered.ack.verdict is AckVerdict.ACCEPTED
    assert adopted == SharedAdopted(ModelVersion(1, 1))
    np.testing.assert_array_equal(fog.journal.base().shared["w"], [0.5, 0.5, 0.5])
    assert fog.journal.unsettled() is None
    assert fog.exchange() == []


def test_an_acknowledgement_that_was_lost_is_asked_for_again_and_nothing_is_counted_twice(fog, cloud):
    fog.link.enroll(cloud.token)
    fog.exchange()
    fog.finish_round(0.5)
    fog.link.push(fog.journal.outgoing())  # and then the fog is killed

    events = fog.exchange()

    assert events[0].ack.verdict is AckVerdict.DUPLICATE
    assert fog.journal.base().shared["w"][0] == 0.5
    assert fog.journal.waiting() == 0


def test_a_new_release_is_followed_and_what_was_made_for_the_old_one_is_refused_with_a_reason(fog, cloud):
    fog.link.enroll(cloud.token)
    fog.exchange()
    fog.finish_round(0.5)
    cloud.publish(2)

    delivered, mirrored = fog.exchange()

    assert delivered.ack.verdict is AckVerdict.REFUSED
    assert delivered.ack.reason
    assert mirrored.release.version == 2
    assert fog.journal.base().version == ModelVersion(2)
    assert fog.journal.outgoing() is None


def test_a_fog_the_cloud_does_not_know_is_told_so(fog, cloud):
    with pytest.raises(ConfigError, match="not enrolled"):
        fog.exchange()
    with pytest.raises(ConfigError, match="turned this fog away"):
        fog.link.enroll("a-token-that-was-never-made")


def test_a_file_that_was_never_released_cannot_be_fetched(fog, cloud):
    fog.link.enroll(cloud.token)

    with pytest.raises(Malformed):
        list(fog.link.fetch(1, "../registry.sqlite", 0))
