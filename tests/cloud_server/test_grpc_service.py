import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
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
from cloud_server.exchange import Exchange, digest_of_secret
from cloud_server.ports import ReleaseRow
from learning_core.errors import PortInUse
from learning_core.updates import Aggregate, ModelVersion
from protos import dewfall_pb2 as pb
from protos.cloud_messages import (
    MAX_ADAPTER_BYTES,
    MAX_CHUNK_BYTES,
    AckVerdict,
    Enrolment,
    FileRequest,
    decode_ack,
    decode_latest,
    encode_aggregate,
    encode_enrolment,
    encode_file_request,
    encode_poll,
)
from protos.dewfall_pb2_grpc import CloudStub
from protos.release import Manifest, usual

SHAPES = {"w": (3,)}
NOW_S = time.time()  # certificates are compared with the real clock
CREDENTIAL = "c" * 64
LARGE = np.random.default_rng(0).bytes(2 * MAX_CHUNK_BYTES + 17)
MANIFEST = Manifest(
    version=1,
    family="flow_image",
    model={},
    rank=1,
    alpha=1.0,
    adapter_shapes=SHAPES,
    steps=1,
    guidance=1.0,
    known_conditions=(0,),
    num_conditions=2,
    max_fidelity_drop=0.02,
    max_kid_rise=0.2,
    max_out_of_range=0.05,
    variants=(usual(1, 1.0),),
)


class Running:
    """A service on loopback, and how to speak with it."""

    def __init__(self, state: Path) -> None:
        self.registry = SqliteRegistry.open(state / "registry.sqlite")
        self.releases = ReleaseFolder(state / "releases", Ed25519PrivateKey.generate())
        sha256 = self.releases.publish({"student.onnx": LARGE, "start.safetensors": b"start"}, MANIFEST)
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
        self.exchange = Exchange(self.registry, Release(patience_s=0), {}, lambda: NOW_S)
        self.exchange.conclude(ReleaseRow(1, ModelVersion(0), evaluation, sha256, NOW_S), SHAPES)
        self.token = issue_token(self.registry, "fog-a", 1.0, NOW_S)
        self.traffic = Traffic()
        keys = ensure_certificates(state, ("localhost", "127.0.0.1"), NOW_S)
        service = CloudService(self.exchange, self._file, self.traffic)
        self.server, self.port = start_service(service, "127.0.0.1", 0, *keys)
        self.authority = (state / CA_CERTIFICATE).read_bytes()
        self.channel = self.open_channel(grpc.ssl_channel_credentials(self.authority))
        self.stub = CloudStub(self.channel)

    def open_channel(self, credentials: grpc.ChannelCredentials) -> grpc.Channel:
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, [("grpc.enable_retries", 0)])

    def _file(self, version: int, name: str) -> Path:
        self.exchange.shapes_of(version)
        return self.releases.path_of(version, name)

    def enroll(self, token: str, fog: str = "fog-a", credential: str = CREDENTIAL) -> None:
        enrolment = Enrolment(token, fog, bytes.fromhex(digest_of_secret(credential)))
        self.stub.Enroll(encode_enrolment(enrolment), timeout=5)

    def close(self) -> None:
        self.channel.close()
        self.server.stop(0).wait()
        self.registry.close()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.close()


def bearer(credential: str = CREDENTIAL) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {credential}")]


def aggregate(value: float = 1.0, number: int = 1, fog: str = "fog-a") -> pb.AggregateMessage:
    return encode_aggregate(Aggregate({"w": np.full(3, value, np.float32)}, 2.0, ModelVersion(1), fog, number))


def push(cloud: Running, message: pb.AggregateMessage, credential: str = CREDENTIAL) -> pb.Ack:
    return cloud.stub.PushAggregate(message, metadata=bearer(credential), timeout=5)


def refusal(call: object, *args: object, **kwargs: object) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    return caught.value.code().name, caught.value.details()


def test_a_fog_enrols_delivers_once_and_gets_what_is_newer(cloud: Running):
    cloud.enroll(cloud.token)
    cloud.enroll(cloud.token)  # its first answer was lost
    ack = decode_ack(push(cloud, aggregate(2.0)))
    assert (ack.verdict, ack.shared) == (AckVerdict.ACCEPTED, ModelVersion(1, 1))
    assert decode_ack(push(cloud, aggregate(2.0))).verdict is AckVerdict.DUPLICATE
    reply = cloud.stub.Poll(encode_poll(ModelVersion(1)), metadata=bearer(), timeout=5)
    latest = decode_latest(reply, SHAPES)
    assert (latest.release, latest.shared) == (1, ModelVersion(1, 1))
    assert latest.adapter is not None
    assert latest.adapter["w"].tolist() == [2.0, 2.0, 2.0]
    up, down = cloud.traffic.counts()["fog-a"]
    assert up >= 2 * aggregate().ByteSize()
    assert down >= reply.ByteSize()


def test_without_a_known_credential_nothing_is_answered(cloud: Running):
    cloud.enroll(cloud.token)
    poll = encode_poll(ModelVersion(1))
    for metadata in (
        None,
        bearer("wrong"),
        bearer(""),
        [("authorization", CREDENTIAL)],
        [("authorization", "Basic x")],
    ):
        assert refusal(cloud.stub.Poll, poll, metadata=metadata, timeout=5)[0] == "UNAUTHENTICATED"
        assert refusal(cloud.stub.PushAggregate, aggregate(), metadata=metadata, timeout=5)[0] == "UNAUTHENTICATED"
        fetch = cloud.stub.FetchFile(encode_file_request(FileRequest(1, "student.onnx")), metadata=metadata, timeout=5)
        assert refusal(list, fetch)[0] == "UNAUTHENTICATED"
    assert cloud.registry.aggregates() == []


def test_a_wrong_or_used_token_does_not_enrol(cloud: Running):
    code, why = refusal(cloud.enroll, "x" * 32)
    assert (code, "not one for this fog" in why) == ("PERMISSION_DENIED", True)
    assert refusal(cloud.enroll, cloud.token, "fog-b")[0] == "PERMISSION_DENIED"
    cloud.enroll(cloud.token)
    assert refusal(cloud.enroll, cloud.token, "fog-a", "other" * 10)[0] == "PERMISSION_DENIED"
    assert refusal(cloud.enroll, "short")[0] == "INVALID_ARGUMENT"
    assert cloud.registry.fogs() == ["fog-a"]


def test_a_fog_cannot_deliver_for_another(cloud: Running):
    cloud.enroll(cloud.token)
    code, why = refusal(push, cloud, aggregate(fog="fog-b"))
    assert (code, "another fog" in why) == ("PERMISSION_DENIED", True)
    assert cloud.registry.aggregates() == []


def test_malformed_aggregates_are_refused_and_change_nothing(cloud: Running):
    cloud.enroll(cloud.token)
    no_number = aggregate()
    no_number.delta = no_number.delta.replace(np.float32(1).tobytes(), np.float32("nan").tobytes())
    other_shape = encode_aggregate(Aggregate({"w": np.ones(4, np.float32)}, 2.0, ModelVersion(1), "fog-a", 1))
    other_release = encode_aggregate(Aggregate({"w": np.ones(3, np.float32)}, 2.0, ModelVersion(9), "fog-a", 1))
    empty = aggregate()
    empty.delta = b""
    for message in (no_number, other_shape, other_release, empty):
        assert refusal(push, cloud, message)[0] == "INVALID_ARGUMENT"
    large = aggregate()
    large.delta = bytes(MAX_ADAPTER_BYTES + (1 << 20))
    assert refusal(push, cloud, large)[0] == "RESOURCE_EXHAUSTED"
    assert cloud.registry.aggregates() == []
    assert cloud.exchange.shared_version() == ModelVersion(1)


def test_bytes_that_are_no_message_do_no_harm(cloud: Running):
    cloud.enroll(cloud.token)
    send = cloud.channel.unary_unary("/dewfall.v1.Cloud/PushAggregate", lambda data: data, pb.Ack.FromString)
    assert refusal(send, b"\xff\xff\xff", metadata=bearer(), timeout=5)[0] in {"INTERNAL", "UNKNOWN"}
    assert decode_ack(push(cloud, aggregate())).verdict is AckVerdict.ACCEPTED


def test_a_file_comes_whole_in_bounded_chunks_or_from_where_it_broke_off(cloud: Running):
    cloud.enroll(cloud.token)

    def fetch(name: str, offset: int = 0) -> list[bytes]:
        request = encode_file_request(FileRequest(1, name, offset))
        return [chunk.data for chunk in cloud.stub.FetchFile(request, metadata=bearer(), timeout=10)]

    chunks = fetch("student.onnx")
    assert [len(chunk) for chunk in chunks] == [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 17]
    assert b"".join(chunks) == LARGE
    assert b"".join(fetch("student.onnx", MAX_CHUNK_BYTES + 5)) == LARGE[MAX_CHUNK_BYTES + 5 :]
    assert fetch("student.onnx", len(LARGE) + 1) == []
    assert json.loads(fetch("manifest.json")[0])["version"] == 1
    assert len(fetch("manifest.sig")[0]) == 64


@pytest.mark.parametrize(
    ("release", "name"), [(1, "../../registry.sqlite"), (1, "nothing.onnx"), (2, "student.onnx"), (1, "..")]
)
def test_only_files_of_published_releases_are_given_out(cloud: Running, release: int, name: str):
    cloud.enroll(cloud.token)
    request = encode_file_request(FileRequest(release, name))
    assert refusal(list, cloud.stub.FetchFile(request, metadata=bearer(), timeout=5))[0] == "INVALID_ARGUMENT"


def test_a_call_without_a_deadline_is_refused(cloud: Running):
    cloud.enroll(cloud.token)
    code, why = refusal(cloud.stub.Poll, encode_poll(ModelVersion(1)), metadata=bearer())
    assert (code, "deadline" in why) == ("INVALID_ARGUMENT", True)


def test_nobody_is_answered_without_tls_or_under_another_authority(cloud: Running, tmp_path: Path):
    (tmp_path / "other").mkdir()
    ensure_certificates(tmp_path / "other", ("127.0.0.1",), NOW_S)
    stranger = grpc.ssl_channel_credentials((tmp_path / "other" / CA_CERTIFICATE).read_bytes())
    with cloud.open_channel(stranger) as channel:
        code, _ = refusal(CloudStub(channel).Poll, encode_poll(ModelVersion(1)), metadata=bearer(), timeout=5)
        assert code == "UNAVAILABLE"
    with grpc.insecure_channel(f"127.0.0.1:{cloud.port}") as channel:
        code, _ = refusal(CloudStub(channel).Poll, encode_poll(ModelVersion(1)), metadata=bearer(), timeout=5)
        assert code == "UNAVAILABLE"


def test_the_server_s_own_certificate_file_is_trusted_like_the_authority_s(cloud: Running, tmp_path: Path):
    cloud.enroll(cloud.token)
    with cloud.open_channel(grpc.ssl_channel_credentials((tmp_path / "cloud.crt").read_bytes())) as channel:
        assert CloudStub(channel).Poll(encode_poll(ModelVersion(1)), metadata=bearer(), timeout=5).latest_release == 1


def test_a_port_in_use_is_one_clear_error(cloud: Running, tmp_path: Path):
    keys = ensure_certificates(tmp_path, ("127.0.0.1",), NOW_S)
    service = CloudService(cloud.exchange, cloud.releases.path_of, Traffic())
    with pytest.raises(PortInUse, match=f"port {cloud.port}; stop what uses it"):
        start_service(service, "127.0.0.1", cloud.port, *keys)
