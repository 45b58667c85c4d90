"""The governor as a person meets it: a running agent, its commands and its log."""

import json
from contextlib import closing

import pytest

from edge_agent.calibration import FACT
from edge_agent.drivers.control_socket import AgentLine
from edge_agent.drivers.sqlite_store import Database
from edge_agent.thermal_model import ThermalModel, encode_model
from learning_core.errors import DewfallError

MODEL = ThermalModel(rest_c=40.0, die_k=10.0, die_s=10.0, body_k=20.0, body_s=200.0, margin_c=1.5)


@pytest.fixture
def machine(tmp_path, mirror, stand_in):
    machine = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good")
    yield machine
    machine.close()


def reason_is(reason):
    return lambda status: status["decisions"]["now"]["reason"] == reason


def test_decisions_are_listed_after_a_restart_and_force_ends_with_it(machine, mirror):
    mirror.publish(1)
    agent = machine.start()
    machine.wait_for(reason_is("few_samples"))
    assert machine.command("force", "--state", str(machine.state)).returncode == 0
    status = machine.wait_for(lambda status: status["forced"])
    assert status["learner"]["energy"].startswith("assumed: 6 W")
    assert status["learner"]["heat"].startswith("foreseen by the last rise")
    assert reason_is("few_samples")(status)  # there is nothing to train on, and force makes no samples
    agent.terminate()
    assert agent.wait(5) == 0

    with closing(Database(machine.state / "agent.db")) as database:  # as if it had been calibrated meanwhile
        database.set_fact(FACT, {"model": encode_model(MODEL), "watts_per_core": 4.2})
    machine.start()
    status = machine.wait_for(reason_is("few_samples"))
    assert not status["forced"]
    assert status["learner"] == {
        "held_by": "no cgroup of its own: this kernel has no cgroup v2; at most 1024 MiB of data, the lowest priority",
        "energy": "calibrated: 4.2 W for a busy core",
        "heat": "foreseen by this device's own model, within 1.5 °C",
    }
    listed = machine.command("status", "--state", str(machine.state), "--decisions", "--json")
    decisions = json.loads(listed.stdout)
    assert [each["reason"] for each in decisions] == ["no_release", "few_samples", "few_samples"]
    assert decisions[0]["at_s"] < decisions[-1]["at_s"]
    lines = machine.command("status", "--state", str(machine.state), "--decisions").stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("0 samples are kept, 8 are needed")
    logged = [line.partition(": decision ")[2] for line in (machine.folder / "log").read_text().splitlines()]
    told = [json.loads(line) for line in logged if line]
    assert [each["reason"] for each in told] == [each["reason"] for each in decisions]

    with AgentLine(machine.state / "agent.sock") as line, pytest.raises(DewfallError, match="the last 1 to 200"):
        line.ask("decisions", count=0)
