"""Flower's own processes at the other end: a stock SuperNode at a fog's port, a device's link to a stock SuperLink."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge_agent.drivers.fleet_link import FleetLink
from edge_agent.session import make_client_app
from fog_aggregator.drivers.flower_superlink import EmbeddedSuperlink
from simulations.bench.fog_and_device import HOST, PAYLOADS, TrivialDevice, nothing_else, read_key
from simulations.bench.small_fleet import make_certificate, make_key

pytestmark = pytest.mark.system


@contextlib.contextmanager
def flower(program: str, folder: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One of Flower's own commands as a process; what it says is in `<program>.log`."""
    command = shutil.which(program, path=str(Path(sys.executable).parent))
    environment = {**os.environ, "FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
    environment |= {"FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # it starts its own kind
    with (folder / f"{program}.log").open("ab") as said:
        process = subprocess.Popen(
            [command, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def folder(tmp_path) -> Path:
    make_certificate(tmp_path)
    make_key(tmp_path / "device-0")
    return tmp_path


def until(holds: Callable[[], bool], limit_s: float = 45.0) -> None:
    until_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.1)


def test_a_stock_supernode_with_an_enrolled_key_is_one_of_the_fogs_nodes(folder):
    (folder / "fog").mkdir()
    private = read_key(folder / "device-0").private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (folder / "node").write_bytes(private)
    fog = EmbeddedSuperlink(folder / "fog", HOST, 0, folder / "fog.crt", folder / "fog.key", nothing_else)
    with contextlib.closing(fog):
        arguments = ["--superlink", f"{HOST}:{fog.port}", "--root-certificates", str(folder / "ca.crt")]
        arguments += ["--auth-supernode-private-key", str(folder / "node"), "--isolation", "process"]
        arguments += ["--host", HOST, "--port", str(free_port())]
        node = fog.enroll((folder / "device-0.pub").read_bytes(), "stock")
        with flower("flower-supernode", folder, *arguments) as supernode:
            until(lambda: node in fog.online())
            time.sleep(1.0)
            assert supernode.poll() is None
            assert fog.traffic()[0] > 0


def test_a_device_answers_a_stock_superlink(folder):
    port = free_port()
    tls = ["--ssl-certfile", "fog.crt", "--ssl-keyfile", "fog.key", "--ssl-ca-certfile", "ca.crt"]
    rest = ["--enable-supernode-auth", "--database", "flower.db", "--disable-runtime-dependency-installation"]
    write_app(folder, port)
    public = read_key(folder / "device-0").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (folder / "node.pub").write_bytes(public)
    app = make_client_app(TrivialDevice(PAYLOADS["adapter"]))
    with flower("flower-superlink", folder, "--host", HOST, "--port", str(port), *tls, *rest):
        until(lambda: flower_says(folder, "supernode", "register", "node.pub", "stock") == 0)
        link = FleetLink(f"{HOST}:{port}", folder / "ca.crt", read_key(folder / "device-0"), app)
        stop = threading.Event()
        thread = threading.Thread(target=link.run, args=(stop,))
        thread.start()
        try:
            until(lambda: not link.trouble)
            assert flower_says(folder, "run", "app", "stock") == 0
            until((folder / "answers.json").exists)
        finally:
            stop.set()
            thread.join(10)
    assert json.loads((folder / "answers.json").read_text()) == {"samples_kept": 60, "trained": 19264}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def flower_says(folder: Path, *arguments: str) -> int:
    """The exit code of one of Flower's own commands that comes to an end."""
    with flower("flwr", folder, *arguments) as process:
        return process.wait(60)


def write_app(folder: Path, port: int) -> None:
    """A Flower app whose server asks the one device that there is for its status, and has it train."""
    (folder / "flwr").mkdir()
    link = f'address = "{HOST}:{port}"\nroot-certificates = "{folder / "ca.crt"}"\n'
    (folder / "flwr/config.toml").write_text(f'[superlink]\ndefault = "stock"\n[superlink.stock]\n{link}')
    (folder / "app/asking").mkdir(parents=True)
    (folder / "app/pyproject.toml").write_text(PROJECT)
    (folder / "app/asking/__init__.py").write_text("")
    (folder / "app/asking/client.py").write_text("from flwr.clientapp import ClientApp\n\napp = ClientApp()\n")
    (folder / "app/asking/server.py").write_text(SERVER.replace("ANSWERS", str(folder / "answers.json")))


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "asking"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "test"

[tool.flwr.app.components]
serverapp = "asking.server:app"
clientapp = "asking.client:app"
"""

SERVER = """
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp import ServerApp

from learning_core.updates import ModelVersion
from protos import flower_records as records
from simulations.bench.fog_and_device import PAYLOADS

app = ServerApp()


@app.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    shapes = PAYLOADS["adapter"]
    shared = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    request = records.TrainRequest("fog", 1, ModelVersion(1), shared, 1.0, 0.0, 1.0, 30.0)
    query = records.encode_status_query(records.StatusQuery("fog", 1, ""))
    asked = {"query.status": query, "train": records.encode_train_request(request)}
    messages = [Message(content, nodes[0], kind) for kind, content in asked.items()]
    replies = {reply.metadata.message_type: reply for reply in grid.send_and_receive(messages, timeout=60.0)}
    status = records.decode_device_status(replies["query.status"].content)
    trained = records.decode_train_reply(replies["train"].content, shapes)
    numbers = sum(value.size for value in trained.update.update.delta.values())
    draft = Path("ANSWERS.draft")
    draft.write_text(json.dumps({"samples_kept": status.samples_kept, "trained": numbers}))
    draft.rename("ANSWERS")
"""
