"""The cloud as real processes on tiny models, killed where it hurts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from cloud_server.drivers.sqlite_registry import SqliteRegistry
from cloud_server.exchange import digest_of_secret
from learning_core.params import Shapes
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import (
    Ack,
    AckVerdict,
    Enrolment,
    FileRequest,
    Latest,
    decode_ack,
    decode_latest,
    encode_aggregate,
    encode_enrolment,
    encode_file_request,
    encode_poll,
)
from protos.dewfall_pb2_grpc import CloudStub
from protos.release import read_release_key, verify_release

ROOT = Path(__file__).parents[2]
TINY = """
state = "{state}"
[listen]
port = 0
[training]
rank = 2
teacher = {{ width = 8, depth = 1, heads = 2, steps = 3 }}
student = {{ width = 8, depth = 1, heads = 2, steps = 3 }}
[release]
steps_per_release = 2
patience_s = 60
sampler_steps = 1
pool_size = 400
distil_steps = 40
images_per_condition = 40
golden_images = 10
gates = {{ min_new_gain = -1, max_fidelity_drop = 1, max_kid_rise = 1e9, max_out_of_range = 1 }}
"""
CREDENTIAL = "c" * 64


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cloud_server", *map(str, arguments)]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cloud whose `init` was killed once, when the judge was done, and run again."""
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "cloud.toml").write_text(TINY.format(state=folder / "state"))
    first = subprocess.Popen(command("init", "--config", folder / "cloud.toml", "--json-progress"), cwd=ROOT)
    judge = folder / "state" / "init" / "judge.safetensors"
    wait_for(lambda: judge.exists() or first.poll() is not None)
    orphans = children_of(first.pid)
    first.kill()
    first.wait()
    made_at = judge.stat().st_mtime_ns
    wait_for(lambda: not any(map(alive, orphans)), 5)
    again = run("init", "--config", folder / "cloud.toml", "--json-progress")
    assert again.returncode == 0, again.stderr
    assert judge.stat().st_mtime_ns == made_at
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert {"step": "published", "done": 1, "of": 1} in lines
    assert lines[-1]["release"]["version"] == 1
    return folder


@pytest.fixture
def cloud(initialised: Path, tmp_path: Path) -> Path:
    """A copy of it to be played with; the path of its settings."""
    shutil.copytree(initialised / "state", tmp_path / "state")
    (tmp_path / "cloud.toml").write_text(TINY.format(state=tmp_path / "state"))
    return tmp_path / "cloud.toml"


class Fog:
    """Speaks with a serving cloud as a fog does."""

    def __init__(self, config: Path, port: int) -> None:
        authority = (config.parent / "state" / "ca.crt").read_bytes()
        self.channel = grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority))
        self.stub = CloudStub(self.channel)
        self.metadata = [("authorization", f"Bearer {CREDENTIAL}")]

    def enroll(self, token: str) -> None:
        enrolment = Enrolment(token, "fog-a", bytes.fromhex(digest_of_secret(CREDENTIAL)))
        self.stub.Enroll(encode_enrolment(enrolment), timeout=10)

    def push(self, number: int, base: ModelVersion, shapes: Shapes) -> Ack:
        delta = {name: np.full(shape, 0.01 * number, np.float32) for name, shape in shapes.items()}
        message = encode_aggregate(Aggregate(delta, 3.0, base, "fog-a", number))
        return decode_ack(self.stub.PushAggregate(message, metadata=self.metadata, timeout=10))

    def latest(self) -> Latest:
        return decode_latest(self.stub.Poll(encode_poll(ModelVersion(0)), metadata=self.metadata, timeout=10))

    def fetch(self, release: int, folder: Path) -> None:
        folder.mkdir()
        names = ["manifest.json", "manifest.sig"]
        for name in names:
            request = encode_file_request(FileRequest(release, name))
            chunks = self.stub.FetchFile(request, metadata=self.metadata, timeout=10)
            (folder / name).write_bytes(b"".join(chunk.data for chunk in chunks))
            if name == "manifest.json":
                names.extend(json.loads((folder / name).read_bytes())["files"])


@contextmanager
def serving(config: Path) -> Iterator[tuple["subprocess.Popen[str]", Fog]]:
    process = subprocess.Popen(
        command("serve", "--config", config), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert "listens on 127.0.0.1 port" in line, process.stderr.read()
        fog = Fog(config, int(line.split("port ")[1].split(";")[0]))
        yield process, fog
        fog.channel.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def status(config: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((config.parent / "state" / "status.json").read_text())
    return found


def enrolled(config: Path, fog: Fog) -> Shapes:
    issued = run("enroll-token", "--config", config, "--fog", "fog-a")
    assert issued.returncode == 0, issued.stderr
    fog.enroll(issued.stdout.strip())
    manifest = json.loads((config.parent / "state" / "releases" / "1" / "manifest.json").read_bytes())
    return {name: tuple(shape) for name, shape in manifest["adapter_shapes"].items()}


def test_a_release_is_made_and_published_once_though_its_process_is_killed_at_each_step(cloud: Path, tmp_path: Path):
    work = tmp_path / "state" / "work" / "1.2"
    with serving(cloud) as (process, fog):
        shapes = enrolled(cloud, fog)
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
        assert fog.push(1, ModelVersion(1, 0), shapes).shared == ModelVersion(1, 1)
        assert fog.push(2, ModelVersion(1, 1), shapes).shared == ModelVersion(1, 2)
        for artefact in ("merged.safetensors", "pool.safetensors", "distilled.safetensors", "evaluation.json"):
            wait_for((work / artefact).exists)
            made_at = (work / artefact).stat().st_mtime_ns
            for child in children_of(process.pid):
                os.kill(child, signal.SIGKILL)
            assert "being distilled" in fog.push(3, ModelVersion(1, 2), shapes).reason or fog.latest().release == 2
            assert (work / artefact).stat().st_mtime_ns == made_at
        wait_for(lambda: fog.latest().release == 2)
        fog.fetch(2, tmp_path / "mirror")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    registry = SqliteRegistry.open(tmp_path / "state" / "registry.sqlite")
    events = [event for _, event, _ in registry.audit()]
    registry.close()
    assert events.count("distillation interrupted") >= 3  # the last kill may come when all is done
    assert events.count("published") == 2
    key = read_release_key(tmp_path / "state" / "release.pub")
    assert verify_release(tmp_path / "mirror", key).version == 2
    listed = json.loads(run("releases", "--config", cloud, "--json").stdout)
    assert [(each["version"], each["made_from"], each["accepted"]) for each in listed] == [
        (1, "0.0", True),
        (2, "1.2", True),
    ]
    told = status(cloud)
    assert told["shared"]["version"] == "2.0"  # type: ignore[index]
    assert set(told["seconds"]["release from 1.2"]) == {  # type: ignore[index]
        *("merged.safetensors", "pool.safetensors", "distilled.safetensors", "evaluation.json"),
        *("healthy.safetensors", "published"),
    }


def test_a_serving_cloud_that_is_killed_goes_on_and_counts_nothing_twice(cloud: Path, tmp_path: Path):
    with serving(cloud) as (process, fog):
        shapes = enrolled(cloud, fog)
        fog.push(1, ModelVersion(1, 0), shapes)
        process.kill()
    with serving(cloud) as (process, fog):
        assert fog.push(1, ModelVersion(1, 0), shapes).verdict is AckVerdict.DUPLICATE
        assert fog.latest().shared == ModelVersion(1, 1)
        fog.push(2, ModelVersion(1, 1), shapes)
        wait_for((tmp_path / "state" / "work" / "1.2" / "merged.safetensors").exists)
        orphans = children_of(process.pid)
        process.kill()
        wait_for(lambda: not any(map(alive, orphans)), 5)
    with serving(cloud) as (_, fog):
        assert fog.push(2, ModelVersion(1, 1), shapes).verdict is AckVerdict.DUPLICATE
        wait_for(lambda: fog.latest().release == 2)
        assert "release 2 replaced" in fog.push(3, ModelVersion(1, 2), shapes).reason
        wanted = {"counted": 2, "buffered": 0, "refused": 1}
        wait_for(lambda: status(cloud)["fogs"]["fog-a"]["aggregates"] == wanted)  # type: ignore[index]
    told = status(cloud)
    assert told["distilling"] is None
    assert [each["version"] for each in told["releases"]] == [1, 2]  # type: ignore[attr-defined]


def test_a_second_cloud_on_the_same_state_or_port_is_refused_in_one_sentence(cloud: Path, tmp_path: Path):
    with serving(cloud):
        second = run("serve", "--config", cloud)
        assert (second.returncode, "is in use by another process" in second.stderr) == (1, True)
        shutil.copytree(tmp_path / "state", tmp_path / "other")
        port = status(cloud)["listening_on"][1]  # type: ignore[index]
        text = cloud.read_text().replace("port = 0", f"port = {port}")
        (tmp_path / "other.toml").write_text(text.replace(str(tmp_path / "state"), str(tmp_path / "other")))
        third = run("serve", "--config", tmp_path / "other.toml")
        assert (third.returncode, third.stderr.count("\n")) == (1, 1)
        assert f"port {port}; stop what uses it" in third.stderr


def test_changed_training_settings_do_not_mix_with_what_was_begun(cloud: Path):
    cloud.write_text(cloud.read_text().replace("rank = 2", "rank = 4"))
    again = run("init", "--config", cloud)
    assert again.returncode == 2
    assert "other [training] settings" in again.stderr


@pytest.mark.parametrize("arguments", [["serve"], ["enroll-token", "--fog", "a"], ["releases"], ["status"]])
def test_a_state_that_is_not_there_is_one_sentence_and_no_new_folder(tmp_path: Path, arguments: list[str]):
    done = run(*arguments, "--state", tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_setting_is_named_with_the_one_that_was_meant(tmp_path: Path):
    (tmp_path / "cloud.toml").write_text("[release]\npatiense_s = 3\n")
    done = run("config", "check", "--config", tmp_path / "cloud.toml")
    assert done.returncode == 2
    assert "patience_s" in done.stderr


def test_the_settings_may_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cloud.toml").write_text("")
    monkeypatch.setenv("DEWFALL_CLOUD__RELEASE__PATIENCE_S", "7")
    done = run("config", "check", "--json", "--config", tmp_path / "cloud.toml")
    assert json.loads(done.stdout)["release"]["patience_s"] == 7
