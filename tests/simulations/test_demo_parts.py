import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections import deque

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.errors import DewfallError
from learning_core.samples import Batch
from protos.codec import decode_tensors
from simulations.demo import plan
from simulations.demo.configure import free_port, toml
from simulations.demo.leash import leashed
from simulations.demo.processes import MAX_RESTARTS, Household, undisturbed
from simulations.demo.story import crossed, fields
from simulations.demo.twin import Twin, World
from simulations.physics import Board, DeviceState
from simulations.streams import Portion

KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12),
)


def until(condition, limit_s=15.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@given(st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, VALUES, max_size=3)), max_size=5))
def test_settings_are_written_as_toml_reads_them(values):
    assert tomllib.loads(toml(values)) == values


def digits(size):
    rng = np.random.default_rng(0)
    return Batch(rng.uniform(-1, 1, (size, 1, 8, 8)).astype(np.float32), np.arange(size) % 5 + 5)


def test_the_cast_has_one_hot_device_and_one_low_on_charge_that_is_plugged_in_later(tmp_path):
    cast = {twin.name: twin for twin in plan.twins(tmp_path, digits(200), plan.Stream(), 0)}
    assert set(cast) == set(plan.DEVICES)
    assert [name for name, twin in cast.items() if twin.state.die_c > 70] == [plan.HOT]
    assert [name for name, twin in cast.items() if twin.plug_in_after_s is not None] == [plan.LOW]
    assert cast[plan.LOW].state.charge < 0.3
    told = {int(c) for twin in cast.values() for portion in twin.stream for c in portion.batch.conditions}
    assert told == set(plan.NEW)


def twin(tmp_path, *portions, plug_in_after_s=None):
    return Twin(
        "device-1",
        tmp_path / "root",
        tmp_path / "spool",
        Board(),
        DeviceState(30.0, 30.0, charge=0.1),
        deque(portions),
        plug_in_after_s,
    )


def test_samples_are_dropped_into_the_spool_when_they_are_due(tmp_path):
    device = twin(tmp_path, Portion(0.0, digits(3)), Portion(9.0, digits(2)), plug_in_after_s=5.0)
    device.spool.mkdir()
    device.deliver(1.0)
    (only,) = device.spool.iterdir()
    assert decode_tensors(only.read_bytes())["features"].shape == (3, 1, 8, 8)
    assert not device.state.plugged
    device.deliver(9.0)
    assert device.state.plugged
    assert sorted(path.name for path in device.spool.iterdir()) == ["000000.safetensors", "000001.safetensors"]


def test_the_world_goes_on_until_it_is_stopped_and_keeps_what_failed(tmp_path):
    device = twin(tmp_path)
    world = World([device], 10.0, lambda _: None)
    world.start()
    until(lambda: len(device.history) >= 2)
    (tmp_path / "root" / "sys" / "class" / "thermal" / "thermal_zone0" / "temp").unlink()
    world.check()
    world.stop()
    assert device.history[-1][0] > device.history[0][0]


def test_only_a_learners_cpu_seconds_heat_a_device(tmp_path):
    busy = twin(tmp_path)
    for tick in range(4):
        sum(range(2_000_000))  # this process works, but it has no learner
        busy.advance(tick, 0.25, 1.0, os.getpid())
    assert all(load == 0 for _, _, _, load in busy.history)


def test_who_dies_is_brought_back_and_nobody_is_left_behind(tmp_path):
    with Household(tmp_path) as house:
        member = house.start("server", "http.server", str(free_port()))
        first = member.pid
        member.process.kill()
        member.process.wait()
        assert house.tend() == ["server"]
        assert member.pid != first
        assert house.tend() == []
        pids = list(house.pids().values())
    assert not any(psutil.pid_exists(pid) for pid in [first, *pids])


def test_who_keeps_dying_ends_the_demo_with_its_last_words(tmp_path):
    def keep_tending():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            house.tend()
            time.sleep(0.05)

    with Household(tmp_path) as house:
        house.start("broken", "no_such_module_anywhere")
        with pytest.raises(DewfallError, match=r"(?s)broken keeps ending.*no_such_module_anywhere"):
            keep_tending()
        assert house.members["broken"].restarts == MAX_RESTARTS


@pytest.fixture
def ctrl_c():
    """A shell that starts tests in the background lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_waits_until_what_was_started_is_entered(tmp_path):
    entered = []
    with Household(tmp_path) as house:
        try:
            with undisturbed():
                signal.raise_signal(signal.SIGINT)
                entered.append(house.start("server", "http.server", str(free_port())).pid)
        except KeyboardInterrupt:
            entered.append(0)
        assert entered.pop() == 0  # it came, and after the block
        assert list(house.pids().values()) == entered
    assert not psutil.pid_exists(entered[0])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_runs_on_a_leash_that_nobody_holds():
    orphan = [*leashed("http.server", "0")]
    orphan[3] = "1"
    assert orphan[:3] == [sys.executable, "-m", "simulations.demo.leash"]
    done = subprocess.run(orphan, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1


def test_a_world_that_stands_still_is_no_calm_one(tmp_path):
    def lost(_):
        raise KeyError("no such process")

    world = World([twin(tmp_path)], 10.0, lost)
    world.start()
    world.join(10)
    with pytest.raises(KeyError):
        world.check()


def test_messages_are_summed_up_by_what_they_are_made_of(tmp_path):
    array = {"dtype": "<f4", "shape": [2, 3], "bytes": 24}
    lines = [
        {"tier": "device", "direction": "up", "kind": "train", "size": 30, "content": {"arrays": {"a.lora_B": array}}},
        {"tier": "device", "direction": "up", "kind": "train", "size": 10, "content": {"config": {"round": "int"}}},
    ]
    (tmp_path / "tap").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (kind,) = crossed([tmp_path / "tap", tmp_path / "absent"])
    assert (kind["messages"], kind["bytes"]) == (2, 40)
    assert kind["fields"] == ["arrays/a.lora_B: <f4[2, 3]", "config/round: int"]


def test_bytes_of_unknown_make_are_shown_and_not_hidden():
    assert fields({"delta": {"bytes": 9}}) == ["delta: 9 bytes"]
