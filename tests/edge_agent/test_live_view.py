"""The live view shows what the agent's own status says, and goes on until somebody stops it."""

import io

import pytest
from rich.console import Console

from edge_agent import people
from edge_agent.drivers.control_socket import ControlSocket
from edge_agent.live_view import view_of
from edge_agent.people import watch_status
from edge_agent.serving import Latency
from edge_agent.status import (
    describe_decisions,
    describe_device,
    describe_privacy,
    describe_rounds,
    describe_samples,
    describe_serving,
)
from edge_agent.values import Action, Decision, Quality, Reading, Reason, Telemetry
from learning_core.errors import LinkDown

ABSENT = Reading(0.0, "", float("inf"), Quality.ABSENT, "none")
WARM = Telemetry(
    soc_temp_c=Reading(45.25, "°C", 0.1, Quality.OK, "zone"),
    throttled=ABSENT,
    charge=Reading(0.5, "share", 7.0, Quality.STALE, "battery"),
    plugged=Reading(1.0, "", 0.1, Quality.OK, "mains"),
)


def tree(telemetry=WARM, count=3, epsilon=1.5, **fog):
    latency = Latency(1.25, 2.5, count) if count else Latency(float("nan"), float("nan"), 0)
    now = Decision(Action.WAIT, Reason.HEAT, "the chip has [80] °C")
    return {
        "name": "device-1",
        "decisions": describe_decisions({}, now, []),
        "samples": describe_samples({"seen": 20, "kept": 6}, 5),
        "rounds": describe_rounds({"updates": 2}),
        "device": describe_device(telemetry, None),
        **describe_serving(None, latency),
        "privacy": describe_privacy(epsilon, 10.0, 1e-5, 2),
        "fog": fog,
    }


def shown(status):
    console = Console(file=io.StringIO(), width=100)
    console.print(view_of(status))
    return console.file.getvalue()


def test_every_figure_is_the_one_of_the_status():
    text = shown(tree())
    for wanted in (
        "wait (heat): the chip has [80] °C",
        "45.2 °C",
        "50% (stale, 7 s old), plugged in",
        "1.2 ms (p99 2.5) over 3 answers",
        "20 seen, 6 kept, 5 in memory",
        "epsilon 1.5 of 10 over 2 rounds",
        "connected",
    ):
        assert wanted in text


def test_what_is_not_known_is_a_dash_and_not_a_number():
    text = shown(tree(None, count=0, epsilon=float("inf"), trouble="the fog is away"))
    assert "temperature │ -" in text
    assert "- over 0 answers" in text
    assert "epsilon without limit" in text
    assert "the fog is away" in text


def test_it_asks_again_and_again_until_ctrl_c(tmp_path, monkeypatch):
    asked = []

    def status(_):
        asked.append(1)
        return {"status": tree(count=len(asked))}, b""

    def sleep(_):
        if len(asked) == 3:
            raise KeyboardInterrupt

    door = ControlSocket(tmp_path / "agent.sock", {"status": status})
    monkeypatch.setattr(people.time, "sleep", sleep)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with pytest.raises(KeyboardInterrupt):
        watch_status(tmp_path / "agent.sock", console)
    door.close()
    assert "over 1 answers" in console.file.getvalue()
    assert "over 3 answers" in console.file.getvalue()


def test_an_agent_that_does_not_run_is_said(tmp_path):
    with pytest.raises(LinkDown, match="start it with"):
        watch_status(tmp_path / "agent.sock", Console(file=io.StringIO()))
