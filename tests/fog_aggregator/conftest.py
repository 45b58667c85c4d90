"""A published release of a tiny adapter, devices whose updates can be added up by hand, and a site around them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fog_aggregator.config import Rounds
from fog_aggregator.plans import Budget, Terms
from learning_core.errors import Malformed
from learning_core.federation.privacy import clip
from learning_core.params import Shapes
from learning_core.updates import Update
from protos import cloud_messages as messages
from protos import dewfall_pb2 as pb
from protos.certificates import CertificateFiles, ensure_certificate
from protos.dewfall_pb2_grpc import CloudServicer, add_CloudServicer_to_server
from protos.flower_records import Declined, DeviceStatus, StatusQuery, Trained, TrainRequest
from protos.release import Manifest, usual, write_release
from simulations.site import SimulatedCloud, SimulatedSite

SHAPES: Shapes = {"head.lora_B": (4, 2), "label_rows": (2, 3)}


@dataclass
class PlainDevice:
    """Learns `step` in coordinate `place` in every round; the same round again gives the same update."""

    place: int = 0
    step: float = 0.125
    reason: str = ""  # why it is not ready
    decline: str = ""  # why it declines although it said it was ready
    serves: int | None = None
    trained: list[int] = field(default_factory=list)

    def adapter_shapes(self) -> Shapes:
        return SHAPES

    def status(self, query: StatusQuery) -> DeviceStatus:
        release = query.latest_release if self.serves is None else self.serves
        return DeviceStatus(not self.reason, self.reason, release, 10, {})

    def train(self, request: TrainRequest) -> Trained | Declined:
        self.trained.append(request.round)
        if self.decline:
            return Declined(request.round, self.decline)
        delta = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        delta["head.lora_B"].flat[self.place] = self.step
        return Trained(request.round, clip(Update(delta, 5, request.base_version), request.clip_norm), {"loss": 0.5})


@pytest.fixture
def signing_key():
    return Ed25519PrivateKey.from_private_bytes(b"\7" * 32)


@pytest.fixture
def release_key(signing_key):
    return signing_key.public_key().public_bytes_raw()


@pytest.fixture
def publish(tmp_path, signing_key):
    """Write release `version` and return its folder."""

    def written(version: int, size: int = 100_000) -> Path:
        draft = Manifest(
            version=version,
            family="flow_image",
            model={"width": 4},
            rank=2,
            alpha=4.0,
            adapter_shapes=SHAPES,
            steps=10,
            guidance=1.0,
            known_conditions=(0, 1),
            num_conditions=4,
            max_fidelity_drop=0.02,
            max_kid_rise=0.1,
            max_out_of_range=0.05,
            variants=(usual(10, 1.0),),
        )
        files = {"student.onnx": bytes([version]) * size, "judge.onnx": b"judge"}
        write_release(tmp_path / "published" / str(version), files, draft, signing_key)
        return tmp_path / "published" / str(version)

    return written


@pytest.fixture
def cloud(release_key, publish):
    cloud = SimulatedCloud(release_key)
    cloud.publish(publish(1))
    return cloud


@pytest.fixture
def make_site(tmp_path, release_key, cloud):
    """Build a site on the test's state folder, as often as wanted; all are closed at the end."""
    built: list[SimulatedSite] = []

    def make(devices, state="state", terms=Terms(1.0, 0.0, 1.0), budget=Budget(1e-5, float("inf")), **settings):
        keywords = {name: settings.pop(name) for name in ("seed", "delays_s", "reached") if name in settings}
        pace = Rounds(**{"patience_s": 2.0, **settings})
        site = SimulatedSite(tmp_path / state, "fog-a", cloud, release_key, devices, terms, budget, pace, **keywords)
        built.append(site)
        return site

    yield make
    for site in built:
        site.close()


@pytest.fixture
def plain_device():
    return PlainDevice


class GrpcCloud(CloudServicer):
    """The simulated cloud behind real gRPC and TLS; knows the credentials whose token was `good-token-good-token`."""

    def __init__(self, cloud: SimulatedCloud, tls: Path) -> None:
        self.cloud, self.credentials = cloud, set()
        names = ("authority", "authority_key", "certificate", "private_key")
        files = CertificateFiles(**{name: tls / f"{name}.pem" for name in names})
        ensure_certificate(files, "test cloud", ["localhost", "127.0.0.1"], 1.7e9)
        self.ca = files.authority
        self._pair = files.private_key.read_bytes(), files.certificate.read_bytes()
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4))
        add_CloudServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", grpc.ssl_server_credentials([self._pair]))
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def Enroll(self, request, context):  # noqa: N802
        if request.token != "good-token-good-token":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token is not known")
        self.credentials.add(request.credential_sha256)
        return pb.EnrollReply()

    def PushAggregate(self, request, context):  # noqa: N802
        self._check(context)
        try:
            return messages.encode_ack(self.cloud.push(messages.decode_aggregate(request, SHAPES)))
        except Malformed as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def Poll(self, request, context):  # noqa: N802
        self._check(context)
        return messages.encode_latest(self.cloud.poll(messages.decode_poll(request)))

    def FetchFile(self, request, context):  # noqa: N802
        self._check(context)
        wanted = messages.decode_file_request(request)
        try:
            for data in self.cloud.fetch(wanted.release, wanted.name, wanted.offset):
                yield pb.Chunk(data=data)
        except Malformed as error:
            context.abort(grpc.StatusCode.NOT_FOUND, str(error))

    def _check(self, context) -> None:
        credential = dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer ")
        if hashlib.sha256(credential.encode()).digest() not in self.credentials:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this credential is not enrolled")
        if self.cloud.away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")


@pytest.fixture
def grpc_cloud(cloud, tmp_path):
    tls = tmp_path / "cloud-tls"
    tls.mkdir()
    served = GrpcCloud(cloud, tls)
    yield served
    served.stop()
