import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_server import app
from cloud_server.app import Cloud, issue_token, open_registry, serve
from cloud_server.config import Listen, Release, Settings
from cloud_server.drivers.doorbell import Doorbell
from cloud_server.drivers.identity import ensure_release_key
from cloud_server.drivers.release_folder import ReleaseFolder
from cloud_server.drivers.sqlite_registry import SqliteRegistry
from cloud_server.evaluation import Evaluation, Quality
from cloud_server.exchange import Exchange, digest_of_secret
from cloud_server.ports import ReleaseRow
from learning_core.errors import Malformed, StateError, Tampered
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import Enrolment
from protos.release import Manifest, usual, verify_release

SHAPES = {"w": (2,)}
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


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A cloud with a release 1 of one small file and one fog."""
    state = tmp_path / "state"
    state.mkdir()
    sha256 = ReleaseFolder(state / "releases", ensure_release_key(state)).publish({"student.onnx": b"graph"}, MANIFEST)
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
    registry = SqliteRegistry.open(state / "registry.sqlite")
    exchange = Exchange(registry, Release(), {}, time.time)
    exchange.conclude(ReleaseRow(1, ModelVersion(0), evaluation, sha256, time.time()), SHAPES)
    token = issue_token(registry, "a", 1.0, time.time())
    assert exchange.enroll(Enrolment(token, "a", bytes.fromhex(digest_of_secret("c")))) is None
    registry.close()
    return Settings(state=state, listen=Listen(port=0), release=Release(steps_per_release=1))


def test_a_distillation_that_fails_again_and_again_is_given_up_and_fogs_are_still_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(app, "RETRY_S", 0.01)
    monkeypatch.setattr(app, "MAX_ATTEMPTS", 2)
    registry, bell, stopping = open_registry(settings.state), Doorbell(), list[bool]()
    cloud = Cloud(settings, registry, ["--config", str(settings.state / "nowhere.toml")], bell)
    ready = threading.Event()
    running = threading.Thread(target=cloud.run, args=(lambda: bool(stopping), lambda _: ready.set()))
    running.start()
    assert ready.wait(10)
    cloud.exchange.push(Aggregate({"w": np.ones(2, np.float32)}, 3.0, ModelVersion(1), "a", 1))
    until = time.monotonic() + 20
    while registry.distilling() is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert registry.distilling() is None
    ack = cloud.exchange.push(Aggregate({"w": np.ones(2, np.float32)}, 3.0, ModelVersion(1, 1), "a", 2))
    stopping.append(True)
    bell.ring()
    running.join()
    details = {event: detail for _, event, detail in registry.audit()}
    registry.close()
    bell.close()
    assert ack.shared == ModelVersion(1, 2)
    assert "no settings file" in details["distillation failed"]
    told = json.loads((settings.state / "status.json").read_text())
    assert [each["version"] for each in told["releases"]] == [1]


def test_a_release_whose_bytes_were_changed_is_not_served(settings: Settings):
    (settings.state / "releases" / "1" / "student.onnx").write_bytes(b"Graph")
    bell = Doorbell()
    with pytest.raises(Tampered, match="its bytes were changed"):
        serve(settings, [], bell, lambda: True, lambda _: None)
    bell.close()


def test_a_cloud_without_a_release_says_what_to_run(tmp_path: Path):
    with pytest.raises(StateError, match="run `python -m cloud_server init`"):
        open_registry(tmp_path)
    SqliteRegistry.open(tmp_path / "registry.sqlite").close()
    bell = Doorbell()
    with pytest.raises(StateError, match="init` finish first"):
        serve(Settings(state=tmp_path), [], bell, lambda: True, lambda _: None)
    bell.close()


def test_a_token_is_only_issued_for_a_name_a_fog_may_have(settings: Settings):
    registry = open_registry(settings.state)
    with pytest.raises(Malformed, match="cannot be a fog's name"):
        issue_token(registry, "fog a", 1.0, 0.0)
    assert len({issue_token(registry, "b", 1.0, 0.0) for _ in range(5)}) == 5
    registry.close()


def test_publishing_again_changes_nothing_and_leftovers_that_were_never_published_are_replaced(tmp_path: Path):
    key = Ed25519PrivateKey.generate()
    folder = ReleaseFolder(tmp_path, key)
    first = folder.publish({"student.onnx": b"graph"}, MANIFEST)
    made_at = (tmp_path / "1").stat().st_mtime_ns
    assert folder.publish({"student.onnx": b"graph"}, MANIFEST) == first
    assert (tmp_path / "1").stat().st_mtime_ns == made_at
    assert folder.publish({"student.onnx": b"other"}, MANIFEST) != first
    assert verify_release(tmp_path / "1", key.public_key().public_bytes_raw()).version == 1
    assert folder.read(1, "student.onnx") == b"other"
