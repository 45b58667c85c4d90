"""What a person asked to forget is in no byte of the state folder, whatever was going on."""

import json
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_agent.__main__ import cli
from edge_agent.config import Learning
from edge_agent.drivers.forgetting import forget, forget_without_agent, resume_forgetting
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.drivers.spool_source import SpoolSource
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.ingest import Intake, take_in
from edge_agent.ports import Job
from edge_agent.selection import Everything, OneClass, OneSample, selection_of
from edge_agent.signs import StreamWatch
from edge_agent.values import Action, Decision, NotFitted, Reason
from learning_core.errors import ConfigError, DewfallError, StateError
from learning_core.memory.novelty import Rule
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.codec import decode_tensors, encode_tensors
from protos.state_folder import StateFolder

CLASSES = (5, 6, 7)


class Device:
    """A state folder as an agent leaves it: a memory, a spool inside, a learner's job."""

    def __init__(self, state, release, count=60):
        self.state, self.spool = state, state / "spool"
        self.source = SpoolSource(self.spool, 1 << 20)
        (self.spool / "refused").mkdir(exist_ok=True)
        self.database = Database(state / "agent.db")
        self.memory = SqliteMemory(self.database)
        rng = np.random.default_rng(0)
        self.sent = rng.standard_normal((count, 1, 4, 4), np.float32)
        self.conditions = np.array([CLASSES[i % 3] for i in range(count)], np.int64)
        for start in range(0, count, 20):
            self.drop(f"{start:03}", slice(start, start + 20))
            take_in(self.source, self.memory, release, Intake(Rule(keep_share=1.0), 1 << 20), rng, StreamWatch(rng))
        self.job = state / "learning" / "job"
        self.job.mkdir(parents=True)
        (self.job / "samples.safetensors").write_bytes(self.sent.tobytes())

    def drop(self, name, rows, folder="", **changes):
        tensors = {"features": self.sent[rows], "conditions": self.conditions[rows]} | changes
        (self.spool / folder / f"{name}.safetensors").write_bytes(encode_tensors(tensors))

    def forget(self, selection):
        return forget(selection, self.state, self.spool, self.database)

    def traces(self):
        """Which of the samples sent have bytes (also parts of them) somewhere under the state folder."""
        files = [path.read_bytes() for path in self.state.rglob("*") if path.is_file()]
        wanted = [row.tobytes()[at : at + 16] for row in self.sent for at in (0, 24, 48)]
        found = [any(part in data for data in files) for part in wanted]
        return {at // 3 for at, there in enumerate(found) if there}


@pytest.fixture
def device(tmp_path, release):
    device = Device(tmp_path / "state", release)
    assert device.traces() == set(range(60))
    yield device
    device.database.close()


@pytest.fixture(autouse=True)
def state_folder(tmp_path):
    (tmp_path / "state").mkdir()


def test_one_sample_leaves_no_byte_and_the_others_stay(device):
    before = {each["key"] for each in device.memory.newest(100)}
    assert device.forget(OneSample(7)).samples == 1
    assert {each["key"] for each in device.memory.newest(100)} == before - {7}
    assert device.traces() == set(range(60)) - {6}  # keys count from 1
    assert device.memory.samples()[0].features.shape == (59, 1, 4, 4)


def test_a_class_leaves_no_byte_in_memory_spool_refused_and_job(device):
    device.drop("later", slice(0, 6))
    device.drop("mixed", slice(6, 9), "refused", extra=np.zeros(7, np.float32))
    device.drop("only", slice(1, 2), "refused")
    (device.spool / "refused" / "odd.safetensors").write_bytes(b"no tensors")
    told = device.forget(OneClass(6))
    assert (told.samples, told.files, told.unread) == (20, 3, ["refused/odd.safetensors"])
    assert device.traces() == {i for i in range(60) if CLASSES[i % 3] != 6}
    left = decode_tensors((device.spool / "later.safetensors").read_bytes())
    assert left["conditions"].tolist() == [5, 7, 5, 7]
    assert not device.job.exists()
    assert not (device.spool / "refused" / "only.safetensors").exists()


def test_everything_leaves_no_byte_and_takes_in_again(device, release):
    device.drop("later", slice(0, 6))
    (device.spool / ".cut.safetensors.draft").write_bytes(device.sent.tobytes())
    (device.spool / "refused" / "odd.safetensors").write_bytes(b"x" + device.sent.tobytes())
    told = device.forget(Everything())
    assert (told.samples, told.files, list(told.unread)) == (60, 3, [])
    assert device.traces() == set()
    assert device.forget(Everything()).samples == 0
    device.drop("again", slice(0, 6))
    rng = np.random.default_rng(0)
    take_in(device.source, device.memory, release, Intake(Rule(keep_share=1.0), 1 << 20), rng, StreamWatch(rng))
    assert device.memory.size() == 6


def test_what_a_kill_left_half_written_goes_too_and_a_strangers_draft_stays(device):
    (device.spool / "unsure").mkdir()
    for folder in ("refused", "unsure"):
        (device.spool / folder / ".odd.safetensors.draft").write_bytes(b"x" + device.sent.tobytes()[:999])
    (device.spool / ".observed-1-2-3.safetensors.draft").write_bytes(b"x" + device.sent[6].tobytes())
    (device.spool / ".camera.safetensors.draft").write_bytes(b"still being written")
    device.forget(OneSample(7))
    assert 6 not in device.traces()
    assert [path.name for path in device.spool.rglob(".*")] == [".camera.safetensors.draft"]
    (device.spool / ".observed-1-2-3.safetensors.draft").write_bytes(b"cut off")
    assert device.forget(OneClass(5)).unread == [".observed-1-2-3.safetensors.draft"]


def test_a_half_written_personal_adapter_is_forgotten_with_everything(device):
    (device.state / "releases").mkdir()
    draft = device.state / "releases" / ".1-abc.personal.draft"
    draft.write_bytes(b"half")
    device.forget(OneClass(5))
    assert draft.exists()
    device.forget(Everything())
    assert not draft.exists()


def test_what_was_evicted_long_ago_goes_with_the_rest(device):
    with device.database.transaction() as db:
        db.execute("DELETE FROM samples WHERE key <= 30")
    assert 3 in device.traces()
    device.forget(OneSample(40))
    assert device.traces() == set(range(30, 60)) - {39}


def test_a_file_that_was_taken_in_and_not_removed_does_not_come_twice(device, release):
    device.drop("000", slice(0, 20))
    arrival = device.source.load("000.safetensors", (1, 4, 4), 10)
    with device.database.transaction() as db:
        db.execute("INSERT INTO arrivals VALUES (?, ?)", ("000.safetensors", arrival.digest))
    device.forget(OneClass(5))
    assert not (device.spool / "000.safetensors").exists()
    assert device.database.rows("SELECT name FROM arrivals") == []


def test_a_sample_in_a_refused_file_nobody_can_read_takes_the_file_with_it(device):
    broken = np.concatenate((device.sent[6], np.full((1, 4, 4), np.nan, np.float32)))
    device.drop("broken", slice(6, 8), "refused", features=broken)
    device.forget(OneSample(7))
    assert 6 not in device.traces()


def test_an_unknown_sample_changes_nothing(device):
    with pytest.raises(DewfallError, match="no sample 999 is kept"):
        device.forget(OneSample(999))
    assert device.job.exists()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from edge_agent.drivers.forgetting import forget
    from edge_agent.drivers.sqlite_store import Database
    from edge_agent.selection import OneClass
    state = Path(sys.argv[1])
    Database.erase = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    forget(OneClass(5), state, state / "spool", Database(state / "agent.db"))
"""


def test_kill_9_before_the_traces_are_gone_is_made_good_at_the_next_start(device):
    device.database.close()
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(device.state)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert 0 in device.traces()
    device.database = Database(device.state / "agent.db")
    resume_forgetting(device.database)
    assert device.traces() == {i for i in range(60) if CLASSES[i % 3] != 5}


def test_without_a_running_agent_it_works_on_the_folder_and_asks_first(device):
    device.database.close()
    call = ["forget", "--state", str(device.state), "--class", "7"]
    assert CliRunner().invoke(cli, call, input="n\n").exit_code == 1
    assert 2 in device.traces()
    done = CliRunner().invoke(cli, call, input="y\n")
    assert "Forget every sample of class 7, for ever?" in done.output
    assert "forgotten: 20 samples, 0 files" in done.output
    assert device.traces() == {i for i in range(60) if CLASSES[i % 3] != 7}


def test_a_folder_in_use_or_without_an_agent_is_left_alone(device, tmp_path):
    with StateFolder.open(device.state), pytest.raises(StateError, match="in use"):
        forget_without_agent(Everything(), device.state, device.spool)
    with pytest.raises(ConfigError, match="no agent's state"):
        forget_without_agent(Everything(), tmp_path / "nowhere", device.spool)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "asked", [{}, {"sample": 1, "all": True}, {"class": -1}, {"sample": True}, {"sample": [1]}, {"class": 1 << 63}]
)
def test_exactly_one_thing_is_to_be_said(asked):
    with pytest.raises(ConfigError, match="say what to forget"):
        selection_of(asked)


def test_the_first_sample_and_class_zero_can_be_named():
    assert selection_of({"class": 0, "all": False, "sample": None}) == OneClass(0)
    assert selection_of({"sample": 0}) == OneSample(0)


def test_a_running_agent_forgets_on_demand(tmp_path, mirror, stand_in):
    machine = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good")
    mirror.publish(1)
    sent = np.random.default_rng(3).standard_normal((20, 1, 4, 4), np.float32)
    lines = [json.dumps({"features": sent[at].tolist(), "condition": 5 + at % 2}) for at in range(20)]
    machine.start()
    try:
        machine.wait_for(lambda now: now["release"] is not None)
        lines.insert(4, lines[0].replace('"condition": 5', '"condition": 10'))
        call = ["observe", "--config", str(machine.settings)]
        observed = CliRunner().invoke(cli, call, input="\n".join(lines))
        assert (observed.exit_code, "line 5 is refused: condition 10 is not within" in observed.stderr) == (1, True)
        machine.wait_for(lambda now: now["samples"]["seen"] == 20)
        listed = CliRunner().invoke(cli, ["samples", "--config", str(machine.settings)]).output
        assert "class    5" in listed
        told = CliRunner().invoke(cli, ["forget", "--config", str(machine.settings), "--class", "5", "--yes"])
        assert told.exit_code == 0
        files = [path.read_bytes() for path in machine.state.rglob("*") if path.is_file()]
        assert not [at for at in range(0, 20, 2) if any(sent[at].tobytes() in data for data in files)]
        kept = machine.status()["samples"]["in_memory"]
        assert CliRunner().invoke(cli, ["forget", "--state", str(machine.state), "--all", "--yes"]).exit_code == 0
        assert kept > 0
        assert machine.status()["samples"]["in_memory"] == 0
    finally:
        machine.close()


def test_a_job_at_work_is_given_up_and_none_begins_while_samples_are_forgotten(tmp_path, release, monkeypatch):
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    learner, told = LearnerProcess(tmp_path / "learning", Learning()), []
    batch = Batch(np.zeros((8, 1, 4, 4), np.float32), np.full(8, 5))
    job = Job("a", release, {}, ModelVersion(1), batch, 60.0)
    go = Decision(Action.TRAIN, Reason.READY, "")
    fit = threading.Thread(target=lambda: told.append(learner.fit(job, lambda: go)))
    fit.start()
    while learner.pid is None:
        threading.Event().wait(0.01)
    with learner.halted():
        fit.join(5)
        assert isinstance(told[0], NotFitted)
        assert isinstance(learner.fit(job, lambda: go), NotFitted)
        assert learner.pid is None
    learner.close()
