import socket
import threading

import numpy as np
import pytest

from edge_agent.drivers.control_socket import MAX_CALLERS, AgentLine, ControlSocket
from edge_agent.drivers.overhead import Pair, measure_pair, overhead
from edge_agent.operations import operations
from edge_agent.serving import NothingServed, Serving, served_with
from learning_core.errors import DewfallError, LinkDown
from protos.control import encode_frame


@pytest.fixture
def serving(release):
    serving = Serving()
    serving.serve(served_with(release, None))
    return serving


@pytest.fixture
def paused():
    return []


@pytest.fixture
def door(tmp_path, serving, paused):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()

    def pair(condition, seed):
        took = measure_pair(serving, condition, seed)
        return {"bare_ms": took.bare_ms, "agent_ms": took.agent_ms}

    made = operations(serving, lambda: {"name": "device-1"}, paused.append, pair, max_count=4)
    door = ControlSocket(folder / "agent.sock", made)
    yield folder / "agent.sock"
    door.close()


def test_samples_come_through_the_socket_as_they_are_drawn(door, serving):
    with AgentLine(door) as line:
        header, payload = line.ask("infer", conditions=[3, 1], seed=7)
    drawn = np.frombuffer(payload, "<f4").reshape(header["shape"])
    assert (drawn == serving.answer([3, 1], seed=7)).all()


def test_one_line_carries_many_questions_and_an_error_does_not_end_it(door, paused):
    with AgentLine(door) as line:
        assert line.ask("status")[0] == {"status": {"name": "device-1"}}
        for odd in ({}, {"conditions": 3}, {"conditions": []}, {"conditions": [1] * 5}, {"conditions": [True]}):
            with pytest.raises(DewfallError, match=r"give the conditions|ask for 1 to 4"):
                line.ask("infer", **odd)
        with pytest.raises(DewfallError, match=r"within 0\.\.9"):
            line.ask("infer", conditions=[10])
        with pytest.raises(DewfallError, match="seed"):
            line.ask("infer", conditions=[1], seed=-1)
        with pytest.raises(DewfallError, match="there are infer"):
            line.ask("reboot")
        line.ask("pause")
        line.ask("resume")
    assert paused == [True, False]


def test_only_the_agents_user_may_come_in(door):
    assert door.stat().st_mode & 0o777 == 0o600


def test_nobody_at_home_is_said_in_one_sentence(tmp_path):
    with pytest.raises(LinkDown, match="start it with"):
        AgentLine(tmp_path / "agent.sock")


def test_a_caller_who_talks_nonsense_is_cut_off_and_the_others_are_not(door, tmp_path, monkeypatch):
    monkeypatch.chdir(door.parent)
    with socket.socket(socket.AF_UNIX) as caller, AgentLine(door) as line:
        caller.connect("agent.sock")
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert caller.recv(1) == b""
        assert line.ask("status")[0]


def test_a_crowd_is_turned_away_and_served_when_places_are_free(door):
    lines = [AgentLine(door) for _ in range(MAX_CALLERS)]
    for line in lines:
        line.ask("status")
    with AgentLine(door) as late, pytest.raises(LinkDown):
        late.ask("status")
    for line in lines:
        line.__exit__()
    for _ in range(100):
        try:
            with AgentLine(door) as line:
                line.ask("status")
            return
        except LinkDown:
            threading.Event().wait(0.02)
    pytest.fail("no place became free")


def test_a_socket_left_behind_by_a_killed_agent_is_replaced(tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "agent.sock"))
    left.close()
    door = ControlSocket(tmp_path / "agent.sock", {"status": lambda _: ({"status": 1}, b"")})
    with AgentLine(tmp_path / "agent.sock") as line:
        assert line.ask("status")[0] == {"status": 1}
    door.close()


def test_a_frame_is_answered_even_when_it_comes_in_pieces(door, monkeypatch):
    monkeypatch.chdir(door.parent)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect("agent.sock")
        for byte in encode_frame({"op": "status"}):
            caller.sendall(bytes([byte]))
        assert caller.recv(4)


def test_nothing_is_answered_before_there_is_a_release():
    with pytest.raises(NothingServed, match="no release has arrived"):
        Serving().answer([1], seed=1)


def test_equal_seeds_give_equal_samples_and_latency_is_that_of_single_ones(serving):
    assert (serving.answer([1], 5) == serving.answer([1], 5)).all()
    serving.answer([1, 2], 5)
    latency = serving.latency()
    assert latency.count == 3
    assert 0 < latency.p50_ms <= latency.p99_ms


def test_a_swap_happens_between_two_requests(serving, release, stand_in):
    served = serving.served
    serving.serve(None)
    with pytest.raises(NothingServed):
        serving.answer([1], 1)
    serving.serve(served)
    assert serving.answer([1], 1).shape == (1, 1, 4, 4)


def test_overhead_is_the_median_of_the_pairs():
    pairs = [Pair(bare, agent, 0, 0, "usual") for bare, agent in ((1.0, 1.1), (2.0, 2.4), (1.0, 5.0))]
    assert overhead(pairs) == pytest.approx(0.2)


def test_a_pair_draws_the_same_both_ways_and_times_both(serving):
    pair = measure_pair(serving, 3, seed=4)
    assert pair.bare_ms > 0
    assert pair.agent_ms > 0
