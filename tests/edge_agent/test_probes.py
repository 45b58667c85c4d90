import os
import threading
import time

import pytest

from edge_agent.drivers.probes import Outcome, Probe, ask, run_program
from edge_agent.values import Quality


@pytest.fixture
def program(tmp_path, devices):
    def make(script):
        devices.make_program(tmp_path / "program", script)
        return [str(tmp_path / "program")]

    return make


def test_a_program_tells_its_output(program):
    assert run_program(program("echo throttled=0x0"), 10.0) == Outcome({"output": "throttled=0x0\n"}, Quality.OK)


def test_a_program_speaks_english_whatever_the_owner_does(program, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run_program(program("echo $LC_ALL"), 10.0).texts == {"output": "C\n"}


def test_a_program_that_is_not_there_is_absent(tmp_path):
    assert run_program([str(tmp_path / "nothing")], 10.0).quality is Quality.ABSENT


def test_a_program_that_may_not_be_started_is_denied(tmp_path, program):
    command = program("echo")
    os.chmod(command[0], 0o644)
    assert run_program(command, 10.0).quality is Quality.DENIED


def test_a_program_that_fails_is_denied(program):
    assert run_program(program("echo throttled=0x0; exit 1"), 10.0).quality is Quality.DENIED


def test_a_program_that_hangs_is_killed_with_its_children(program):
    began = time.monotonic()
    assert run_program(program("sleep 60 & sleep 60"), 0.2) == Outcome({}, Quality.STALE)
    assert time.monotonic() - began < 30  # or else the one in the background would still hold the output


def answering(*answers):
    waiting = list(answers)
    return Probe("place", lambda: waiting.pop(0))


def test_a_place_that_stops_answering_keeps_its_last_good_texts():
    good = Outcome({"file": "1"}, Quality.OK)
    probe = answering(good, Outcome({}, Quality.STALE), Outcome({}, Quality.DENIED))
    seen = []
    for _ in range(3):
        ask([probe], 5.0)
        seen.append((probe.snapshot().texts, probe.snapshot().quality))
    assert seen == [(good.texts, Quality.OK), (good.texts, Quality.STALE), ({}, Quality.DENIED)]


def test_a_place_that_was_never_asked_is_absent():
    assert answering().snapshot().quality is Quality.ABSENT


def test_places_that_hang_keep_no_other_from_being_asked_and_cost_the_deadline_once():
    stuck = threading.Event()
    hanging = [Probe(f"hanging {n}", lambda: stuck.wait() and Outcome({}, Quality.OK)) for n in range(3)]
    good = answering(*[Outcome({"file": "1"}, Quality.OK)] * 2)
    began = time.monotonic()
    ask([*hanging, good], 1.0)
    first_s = time.monotonic() - began
    ask([*hanging, good], 20.0)
    stuck.set()
    assert good.snapshot().quality is Quality.OK
    assert {probe.snapshot().quality for probe in hanging} <= {Quality.ABSENT, Quality.OK}  # OK: just let go
    assert first_s >= 1.0
    assert time.monotonic() - began < 15.0


def test_a_place_that_nobody_came_to_ask_keeps_its_last_good_texts():
    stuck = threading.Event()
    good = answering(*[Outcome({"file": "1"}, Quality.OK)] * 2)
    ask([good], 5.0)
    ask([*(Probe("hanging", lambda: stuck.wait() and Outcome({}, Quality.OK)) for _ in range(20)), good], 0.2)
    assert good.snapshot().quality is Quality.STALE
    stuck.set()


def test_a_place_is_not_asked_more_often_than_it_may():
    probe = Probe("place", lambda: Outcome({}, Quality.OK), every_s=3600.0)
    assert (probe.begin(), probe.run(), probe.begin()) == (True, None, False)
