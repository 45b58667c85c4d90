"""A fog as a real process, with devices on real Flower links and a cloud on real gRPC."""

import contextlib
import json
import math
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.drivers.fleet_link import FleetLink
from edge_agent.session import make_client_app
from fog_aggregator.drivers.failpoint import VARIABLE
from learning_core.updates import ModelVersion
from protos.release import MANIFEST, STUDENT_GRAPH

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@dataclass
class FogProcess:
    folder: Path
    process: subprocess.Popen | None = None
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "fog"

    @property
    def config(self) -> Path:
        return self.folder / "fog.toml"

    def command(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "fog_aggregator", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def start(self, **environ: str) -> None:
        command = [sys.executable, "-m", "fog_aggregator", "run", "--config", str(self.config)]
        with (self.folder / "fog.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, "OMP_NUM_THREADS": "1", **environ}, stderr=log, stdout=log
            )

    def status(self) -> dict:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.state / "status.json").read_bytes())
        return {}

    def until(self, holds, timeout_s: float = 30.0) -> dict:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.status().get("pid") == self.process.pid and holds(self.status()):
                return self.status()
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"it did not come to that:\n{(self.folder / 'fog.log').read_text()}\n{self.status()}")

    @property
    def port(self) -> int:
        return self.status()["port"]

    def http(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.state / "fog.crt"))
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}/v1/dewfall/", verify=trust, trust_env=False)

    def enroll(self, name: str, key: ec.EllipticCurvePrivateKey, token: str | None = None) -> httpx.Response:
        token = token or self.command("enroll-token", "--state", str(self.state)).stdout.strip()
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        with self.http() as http:
            return http.post("enroll", json={"token": token, "name": name, "public_key": public})


@pytest.fixture
def fog(tmp_path, grpc_cloud, release_key) -> Iterator[FogProcess]:
    fog = FogProcess(tmp_path)
    fog.config.write_text(f"""
        name = "fog-a"
        state = "{fog.state}"
        tap = "{tmp_path / "tap.jsonl"}"
        [listen]
        port = {free_port()}
        [cloud]
        address = "{grpc_cloud.address}"
        ca = "{grpc_cloud.ca}"
        release_key = "{release_key.hex()}"
        token = "good-token-good-token"
        poll_s = 0.2
        [privacy]
        noise_multiplier = 0.001
        sample_rate = 1.0
        max_epsilon = inf
        [rounds]
        min_devices = 2
        min_ready = 2
        round_pause_s = 0.0
        patience_s = 5.0
    """)
    yield fog
    if fog.process and fog.process.poll() is None:
        fog.process.kill()
        fog.process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def connected(fog, key, device):
    link = FleetLink(f"127.0.0.1:{fog.port}", fog.state / "fog.crt", key, make_client_app(device))
    stop = threading.Event()
    thread = threading.Thread(target=link.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def test_a_fog_serves_learns_delivers_and_stops(fog, cloud, plain_device):
    fog.start()
    fog.until(lambda now: now["release"] == 1)
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("device-1", "device-2")}
    nodes = {name: fog.enroll(name, key).json()["node_id"] for name, key in keys.items()}

    with contextlib.ExitStack() as links:
        for place, key in enumerate(keys.values()):
            links.enter_context(connected(fog, key, plain_device(place)))
        after = fog.until(lambda now: len(now["rounds"]) >= 5 and now["rounds"][3]["settled"])
        resident = Path(f"/proc/{fog.process.pid}/maps").read_text()
        fog.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert fog.process.wait(10) == 0
    assert time.monotonic() - began < 5

    assert {device["node_id"] for device in after["devices"].values()} == set(nodes.values())
    first = after["rounds"][0]
    assert (first["cohort_size"], sorted(first["accepted"])) == (2, ["device-1", "device-2"])
    assert first["settled"] == "by the cloud"
    assert cloud.kept["fog-a", 1].delta["head.lora_B"].flat[0] == pytest.approx(0.0625, abs=0.01)
    assert len(cloud.kept) >= 4
    assert after["ledger"]["devices"]["device-1"]["rounds"] >= 4
    assert after["rss_mb"] <= 180
    assert "torch" not in resident
    assert all(count > 0 for count in after["bytes"].values())
    tapped = [json.loads(line) for line in (fog.folder / "tap.jsonl").read_text().splitlines()]
    assert {(line["tier"], line["direction"], line["kind"]) for line in tapped} >= {
        ("device", "down", "query.status"),
        ("device", "up", "train"),
        ("cloud", "up", "PushAggregate"),
    }
    trained = next(line for line in tapped if (line["kind"], line["direction"]) == ("train", "up"))
    ((made_of, array),) = trained["content"]["arrays"].items()
    assert json.loads(made_of)["head.lora_B"] == [4, 2]
    assert array["shape"] == [sum(math.prod(shape) for shape in json.loads(made_of).values())]
    assert set(trained["content"]) == {"config", "arrays", "metrics"}
    shown = fog.command("status", "--config", str(fog.config))
    assert "is not running" in shown.stdout
    assert json.loads(fog.command("ledger", "--config", str(fog.config), "--json").stdout)["devices"]["device-2"]


@pytest.mark.parametrize("step", ["round.asked:2", "round.charged:2", "round.closed:2"])
def test_a_fog_killed_in_a_round_comes_back_and_its_devices_with_it(step, fog, cloud, plain_device):
    devices = [plain_device(0), plain_device(1)]
    fog.start(**{VARIABLE: step})
    fog.until(lambda now: now["release"] == 1)
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in devices]
    for number, key in enumerate(keys):
        assert fog.enroll(f"device-{number}", key).status_code == 200

    with contextlib.ExitStack() as links:
        for key, device in zip(keys, devices, strict=True):
            links.enter_context(connected(fog, key, device))
        assert fog.process.wait(30) == -signal.SIGKILL
        fog.start()
        after = fog.until(lambda now: len(now["rounds"]) >= 3 and now["rounds"][2]["settled"])

    assert after["restarts"] == 1
    assert [sorted(each["accepted"]) for each in after["rounds"][:3]] == [["device-0", "device-1"]] * 3
    assert [key[1] for key in sorted(cloud.kept)][:3] == [1, 2, 3]
    for number in (1, 2, 3):
        assert cloud.kept["fog-a", number].delta["head.lora_B"].flat[1] == pytest.approx(0.0625, abs=0.01)
    charged = {device["rounds"] for device in after["ledger"]["devices"].values()}
    assert len(charged) == 1
    assert charged.pop() in {len(after["rounds"]), len(after["rounds"]) + 1}


def test_a_fog_goes_on_alone_while_the_cloud_is_down_and_delivers_later(fog, cloud, grpc_cloud, plain_device):
    fog.config.write_text(fog.config.read_text().replace("patience_s = 5.0", "patience_s = 0.3"))
    fog.start()
    fog.until(lambda now: now["release"] == 1)
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    for number, key in enumerate(keys):
        fog.enroll(f"device-{number}", key)
    grpc_cloud.stop()

    with connected(fog, keys[0], plain_device(0)), connected(fog, keys[1], plain_device(1)):
        alone = fog.until(lambda now: now["outbox"] >= 3)
        assert alone["cloud"].startswith("away")
        assert [each["settled"] for each in alone["rounds"][:2]] == ["here", "here"]
        grpc_cloud.start()
        fog.until(lambda now: now["cloud"] == "connected" and now["outbox"] == 0)

    numbers = [number for _, number in cloud.kept]
    assert numbers == list(range(1, len(numbers) + 1))
    assert cloud.version == ModelVersion(1, len(numbers))


def test_devices_enrol_once_and_get_only_the_files_of_the_release(fog):
    fog.start()
    fog.until(lambda now: now["release"] == 1)
    key, other = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    token = fog.command("enroll-token", "--config", str(fog.config)).stdout.strip()

    first, again = fog.enroll("device-1", key, token), fog.enroll("device-1", key, token)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json() == {"node_id": first.json()["node_id"], "fog": "fog-a"}
    assert fog.enroll("device-2", other, token).status_code == 409
    assert fog.enroll("device-2", other, "a-token-nobody-made").status_code == 403
    with fog.http() as http:
        latest = http.get("releases/latest").json()
        assert latest == {"version": 1, "manifest_sha256": fog.status()["manifest_sha256"]}
        assert http.get(f"releases/1/{STUDENT_GRAPH}").content == b"\1" * 100_000
        assert json.loads(http.get(f"releases/1/{MANIFEST}").content)["version"] == 1
        paths = (
            "releases/1/..%2f..%2fjournal.sqlite",
            "releases/1/..",
            "releases/2/manifest.json",
            "nothing",
            "releases/1/a/b",
        )
        assert {http.get(path).status_code for path in paths} == {404}
        assert http.get(f"https://127.0.0.1:{fog.port}/v1/control/anything").status_code == 404
        assert http.get("enroll").status_code == 405
    with sqlite(fog.state) as database:
        stored = database.execute("SELECT digest FROM tokens").fetchall()
    assert len(stored[0][0]) == 32
    assert token.encode() not in (fog.state / "journal.sqlite").read_bytes()


@contextlib.contextmanager
def sqlite(state):
    import sqlite3

    database = sqlite3.connect(state / "journal.sqlite")
    yield database
    database.close()


def test_a_second_fog_on_the_state_and_a_taken_port_are_one_sentence_each(fog):
    fog.start()
    fog.until(lambda now: now["release"] == 1)

    second = fog.command("run", "--config", str(fog.config))
    other = fog.folder / "other.toml"
    other.write_text(fog.config.read_text().replace(str(fog.state), str(fog.folder / "other")))
    taken = fog.command("run", "--config", str(other))

    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert "is in use by another process" in second.stderr
    assert taken.returncode == 1
    assert f"port {fog.port} on 127.0.0.1 is taken" in taken.stderr.splitlines()[-1]


def test_a_refused_enrolment_ends_the_fog_with_what_to_do(fog):
    fog.config.write_text(fog.config.read_text().replace("good-token-good-token", "wrong-token-wrong-token"))

    done = fog.command("run", "--config", str(fog.config))

    assert done.returncode == 2
    assert "turned this fog away" in done.stderr.splitlines()[-1]
