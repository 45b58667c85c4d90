"""Healing in an agent as a person starts it."""

import json

import pytest


@pytest.fixture
def machine(tmp_path, mirror, stand_in):
    machine = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good", "[healing]\ntick_s = 0.2")
    yield machine
    machine.close()


def incidents(machine, *words):
    done = machine.command("incidents", "--config", str(machine.settings), *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_that_was_changed_is_an_incident_that_a_person_can_read(machine, mirror):
    mirror.publish(1)
    machine.start()
    machine.wait_for(lambda now: now["release"] is not None)
    assert incidents(machine) == "nothing has gone wrong\n"
    student = machine.state / "releases" / "1" / "student.onnx"
    student.write_bytes(student.read_bytes()[:-1] + b"?")
    status = machine.wait_for(lambda now: now["healing"]["incidents"])
    assert status["healing"]["incidents"] == {"gave_up": 1, "cause.corrupt": 1}
    assert status["release"]["version"] == 1  # what is in memory goes on answering
    (told,) = json.loads(incidents(machine, "--json"))
    assert [each["remedy"] for each in told["tried"]] == ["reverify", "roll_back"]
    assert "a file of the release was changed" in incidents(machine)
    assert json.loads(incidents(machine, "--count", "--json")) == status["healing"]["incidents"]
    assert machine.command("infer", "--config", str(machine.settings), "--condition", "1").returncode == 0
