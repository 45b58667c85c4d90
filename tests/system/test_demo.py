"""The whole demo, as a person runs it, with one process of each tier killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from simulations.demo.plan import DEVICES, FOGS, NEW, OLD
from simulations.demo.processes import environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(420)]
ALLOWED_TOP = {"config", "arrays", "metrics"}
ADAPTER = ("lora_B", "label_rows")


def family(demo):
    try:
        return psutil.Process(demo.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def find(demo, *words):
    for process in family(demo):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if all(any(word in part for part in line) for word in words):
            return process
    return None


def kill_when_there(demo, condition, *words, limit_s=240):
    """Wait for the moment, then SIGKILL the first process whose command line has all words."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and demo.poll() is None:
        if condition() and (victim := find(demo, *words)):
            victim.kill()
            return True
        time.sleep(0.1)
    return False


def status_of(folder):
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def start(out, *extra):
    return subprocess.Popen(
        [sys.executable, "-m", "simulations", "demo", "--out", str(out), "--json", *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """(report, page, killed) of a demo in which a learner, an agent, a fog, the cloud and its workflow are killed."""
    out = tmp_path_factory.mktemp("demo")
    state = out / "state"
    demo = start(out)
    killed = {}

    def fog_is_in_round():
        return "opens" in status_of(state / "fog-a").get("doing", "")

    killed["learner"] = kill_when_there(demo, lambda: True, "edge_agent.learner")
    killed["device"] = kill_when_there(demo, lambda: True, "edge_agent", "device-4.toml")
    killed["fog"] = kill_when_there(demo, fog_is_in_round, "fog_aggregator", "fog-a.toml")
    killed["workflow"] = kill_when_there(demo, lambda: True, "cloud_server", "workflow")
    killed["cloud"] = kill_when_there(demo, lambda: True, "cloud_server", "serve")
    output, errors = demo.communicate(timeout=300)
    assert demo.returncode == 0, errors[-3000:]
    assert json.loads(output)["seed"] == 0
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(out) in str(process.info["cmdline"])]
    return json.loads((out / "report.json").read_text()), (out / "report.html").read_text(), killed


def test_every_tier_was_killed_once_and_came_back(ended):
    report, _, killed = ended
    assert all(killed.values()), killed
    assert report["restarts"]["device-4"] == report["restarts"]["fog-a"] == report["restarts"]["cloud"] == 1


def test_every_device_serves_the_new_release(ended):
    report, _, _ = ended
    newest = max(release["version"] for release in report["releases"] if release["accepted"])
    assert newest >= 2
    assert {device["release"]["version"] for device in report["devices"].values()} == {newest}
    assert set(report["devices"]) == set(DEVICES)


def test_new_classes_are_learned_and_old_ones_kept(ended):
    report, _, _ = ended
    first, last = (release["fidelity"] for release in (report["releases"][0], report["releases"][-1]))
    assert sum(last[str(condition)] for condition in NEW) / len(NEW) >= 0.9
    fallen = max(first[str(condition)] - last[str(condition)] for condition in OLD)
    assert round(fallen, 6) <= 0.02  # shares of a hundred images


def test_devices_waited_for_heat_and_for_charge_and_said_so(ended):
    report, _, _ = ended
    reasons = Counter()
    for device in report["devices"].values():
        reasons.update(device["decisions"])
    assert reasons["wait.heat"] >= 1
    assert reasons["wait.charge"] >= 1


def test_most_of_the_stream_was_dropped_as_redundant(ended):
    report, _, _ = ended
    samples = [device["samples"] for device in report["devices"].values()]
    assert sum(each["kept"] for each in samples) <= 0.5 * sum(each["seen"] for each in samples)
    assert all(each["seen"] for each in samples)


def test_no_update_was_counted_twice_and_none_was_lost(ended):
    report, _, _ = ended
    counted = Counter((fog, number) for step in report["shared"]["steps"] for fog, number in step["aggregates"])
    assert set(counted.values()) == {1}
    for fog in FOGS:
        closed = [each["round"] for each in report["rounds"][fog] if each["state"] == "closed"]
        assert len(closed) == len(set(closed))
        assert {number for name, number in counted if name == fog} <= set(closed)
        for device in report["ledgers"][fog]["devices"].values():
            assert device["rounds"] == len(closed)  # charged once for each release of noise, asked or not


def test_nothing_but_adapters_counts_and_metrics_crossed_a_tier(ended):
    report, _, _ = ended
    spoken = {(each["tier"], each["direction"], each["kind"]) for each in report["crossed"]}
    assert ("device", "up", "train") in spoken
    for each in report["crossed"]:
        for field in each["fields"]:
            path, kind = field.split(": ")
            if "[" in kind and each["direction"] == "up":
                assert any(word in path for word in ADAPTER), field
        if each["tier"] == "device" and each["kind"] in {"train", "query.status"}:
            assert {field.split("/")[0] for field in each["fields"]} <= ALLOWED_TOP


def test_the_report_states_what_it_has_to(ended):
    report, page, _ = ended
    privacy = report["privacy"]
    assert {"clip_norm", "noise_multiplier", "sample_rate", "epsilon", "target_delta", "unit"} <= set(privacy)
    assert privacy["epsilon"] > 100
    assert "NOT private" in privacy["in_words"]
    assert "dewfall simulate" in page
    assert {"bytes", "seconds", "versions", "seed", "rounds", "releases", "devices"} <= set(report)
    assert all(device["requests"]["answered"] for device in report["devices"].values())
    assert "<img" in page
    assert "http://" not in page
    assert "https://" not in page


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    demo = start(tmp_path / "demo")
    time.sleep(8)
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "stopped before the end" in errors
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])
    ]


def test_a_demo_that_is_killed_outright_takes_its_processes_with_it(tmp_path):
    demo = start(tmp_path / "demo")
    while not find(demo, "cloud_server", "init"):
        time.sleep(0.1)
    time.sleep(2)
    os.kill(demo.pid, signal.SIGKILL)
    demo.communicate(timeout=15)
    deadline = time.monotonic() + 15
    mine = [None]
    while mine and time.monotonic() < deadline:
        mine = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
        time.sleep(0.2)
    assert not mine
