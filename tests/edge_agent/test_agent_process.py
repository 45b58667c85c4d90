"""The agent as a person starts it: real processes, a fog's HTTP side, and no Fleet API behind it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from protos.codec import encode_tensors
from protos.state_folder import write_atomically

MAX_RSS_MB = 160


@pytest.fixture
def machine(tmp_path, mirror, stand_in):
    machine = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good")
    yield machine
    machine.close()


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What agents tell the service manager, as it comes in."""
    words, name = [], str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        thread = threading.Thread(target=lambda: words.extend(iter(lambda: manager.recv(64).decode(), "")))
        thread.start()
        yield words
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", name)
        thread.join(5)


def serves(version):
    return lambda status: status["release"] is not None and status["release"]["version"] == version


def drop(machine, name, count, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {
        "features": rng.standard_normal((count, 1, 4, 4), np.float32),
        "conditions": rng.integers(5, 8, count),
    }
    write_atomically(machine.spool / name, encode_tensors(tensors))


def test_an_agent_enrols_fetches_serves_ingests_and_stops_cleanly(machine, mirror, tmp_path, told):
    mirror.publish(1)
    drop(machine, "a.safetensors", 20)
    agent = machine.start()
    status = machine.wait_for(lambda now: now["samples"]["seen"] == 20 and now["decisions"]["now"]["reason"] == "ready")
    assert serves(1)(status)
    assert status["fog"]["node_id"] == "123"
    assert status["device"]["soc_temp_c"]["value"] == 45.0
    assert list(machine.spool.glob("*.safetensors")) == []

    drawn = machine.command(
        "infer", "--config", str(machine.settings), "--condition", "3", "--seed", "1", "--out", str(tmp_path / "x.png")
    )
    assert drawn.returncode == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "edge_agent.learner" not in _children(agent.pid)

    began = time.monotonic()
    agent.terminate()
    assert agent.wait(5) == 0
    assert time.monotonic() - began < 5
    assert json.loads((machine.state / "status.json").read_text())["samples"]["seen"] == 20
    assert not (machine.state / "agent.sock").exists()
    assert told.count("READY=1") == told.count("STOPPING=1") == 1
    assert told.index("READY=1") < told.index("STOPPING=1")
    assert told.count("WATCHDOG=1") > 5


def test_heat_and_a_pause_are_seen_by_the_running_agent_and_a_pause_outlives_it(machine, mirror):
    mirror.publish(1)
    drop(machine, "a.safetensors", 20)
    agent = machine.start()
    machine.wait_for(lambda now: now["decisions"]["now"]["reason"] == "ready")
    machine.heat(75.0)
    machine.wait_for(lambda now: now["decisions"]["now"]["reason"] == "heat")
    machine.heat(50.0)
    status = machine.wait_for(lambda now: now["decisions"]["now"]["reason"] == "ready")
    assert status["decisions"]["counts"]["wait.heat"] == 1
    assert status["device"]["peak_c"] == 75.0
    assert machine.command("pause", "--state", str(machine.state)).returncode == 0
    agent.send_signal(signal.SIGINT)
    assert agent.wait(5) == 0
    machine.start()
    status = machine.wait_for(lambda now: now["decisions"]["now"]["reason"] == "paused")
    assert status["decisions"]["now"]["action"] == "serve_only"
    assert machine.command("resume", "--state", str(machine.state)).returncode == 0
    machine.wait_for(lambda now: now["decisions"]["now"]["reason"] == "ready")


def test_kill_9_loses_nothing(machine, mirror):
    mirror.publish(1)
    drop(machine, "a.safetensors", 10)
    agent = machine.start()
    before = machine.wait_for(lambda now: now["samples"]["seen"] == 10)
    agent.kill()
    agent.wait()
    drop(machine, "b.safetensors", 5, seed=1)
    machine.start()
    after = machine.wait_for(lambda now: now["samples"]["seen"] == 15)
    assert serves(1)(after)
    assert after["samples"]["kept"] >= before["samples"]["kept"]
    assert after["fog"]["node_id"] == "123"
    assert mirror.asked.count("/v1/dewfall/enroll") == 1


def test_the_agent_holds_no_torch_and_little_memory_with_the_real_student(machine, mirror, stand_in, flow_folder):
    (mirror.folder / "1").symlink_to(flow_folder)
    mirror.latest = {"version": 1, "manifest_sha256": stand_in.manifest_digest(flow_folder)}
    agent = machine.start()
    machine.wait_for(serves(1))
    bench = machine.command("infer", "--state", str(machine.state), "--condition", "5", "--bench", "20")
    assert json.loads(bench.stdout)["pairs"] == 20
    status = machine.wait_for(lambda now: now["inference"]["count"] >= 40)
    assert status["rss_mb"]["agent"] <= MAX_RSS_MB
    mapped = Path(f"/proc/{agent.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "libtorch" not in mapped


def test_nothing_the_agent_is_made_of_imports_torch():
    code = "import sys, edge_agent.app, edge_agent.drivers.overhead; print(*(n for n in sys.modules if 'torch' in n))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_a_second_agent_on_the_same_folder_is_refused_and_the_first_goes_on(machine, mirror):
    mirror.publish(1)
    machine.start()
    machine.wait_for(serves(1))
    second = machine.command("run", "--config", str(machine.settings))
    assert second.returncode == 1
    assert "is in use by another process" in second.stderr
    assert second.stderr.count("\n") == 1
    assert machine.status() is not None


def test_a_release_that_was_changed_on_disk_stops_the_start_once(machine, mirror):
    mirror.publish(1)
    agent = machine.start()
    machine.wait_for(serves(1))
    agent.terminate()
    agent.wait(5)
    student = machine.state / "releases/1/student.onnx"
    student.write_bytes(student.read_bytes()[:-1] + b"\0")
    refused = machine.command("run", "--config", str(machine.settings))
    assert refused.returncode == 1
    assert "release 1 was changed" in refused.stderr.splitlines()[-1]
    machine.start()
    machine.wait_for(serves(1))


def test_a_fog_that_refuses_the_token_ends_the_agent_with_its_words(machine):
    machine.write(machine.settings.read_text().replace('token = "good"', 'token = "wrong"'))
    refused = machine.command("run", "--config", str(machine.settings))
    assert refused.returncode == 1
    assert "does not know that token" in refused.stderr.splitlines()[-1]


def test_a_wrong_key_a_missing_file_and_a_missing_token_are_said_in_one_sentence(machine):
    text = machine.settings.read_text()
    machine.write(text + "\n[limit]\nmin_charge = 0.2\n")
    wrong = machine.command("run", "--config", str(machine.settings))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean 'limits'" in wrong.stderr
    assert machine.command("config", "check", "--config", str(machine.folder / "none.toml")).returncode == 2
    machine.write(text.replace('token = "good"', ""))
    missing = machine.command("enroll", "--config", str(machine.settings))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "fog.token" in missing.stderr


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_state_folder_is_refused(machine):
    machine.state.mkdir(mode=0o500)
    refused = machine.command("run", "--config", str(machine.settings))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "cannot be written" in refused.stderr


def test_enrolling_by_hand_prints_the_node(machine):
    done = machine.command("enroll", "--config", str(machine.settings), "--json")
    assert json.loads(done.stdout)["node_id"] == "123"


def test_asking_an_agent_that_does_not_run_says_how_to_start_it(machine):
    asked = machine.command("status", "--config", str(machine.settings))
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1)
    assert "start it with" in asked.stderr


def _children(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return " ".join(Path(f"/proc/{child}/cmdline").read_text() for child in children)
