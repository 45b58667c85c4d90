"""Whatever is sent to the control socket, it answers or closes, never dies, and nobody else notices."""

import json
import socket
import struct
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.drivers.control_socket import AgentLine, ControlSocket
from edge_agent.drivers.inbox import Inbox
from edge_agent.observation import Expected
from edge_agent.operations import governing, keeping, observing, operations
from edge_agent.selection import Forgotten
from edge_agent.serving import Serving, served_with
from learning_core.errors import LinkDown, StateError
from protos.control import encode_frame, read_frame

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
DETAILS = ("conditions", "condition", "seed", "count", "sample", "class", "all", "observations", "bytes", "payload")
OPS = ("status", "infer", "overhead", "pause", "resume", "force", "decisions", "samples", "forget", "observe", "reboot")


def framed(header, payload=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(text) if length is None else length) + text + payload


FRAMES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        framed,
        st.dictionaries(st.sampled_from(DETAILS), ANY_JSON, max_size=4).flatmap(
            lambda details: st.sampled_from(OPS).map(lambda op: {"bytes": 0, **details, "op": op})
        ),
    ),
    st.builds(
        framed,
        ANY_JSON | st.binary(max_size=40) | st.just(b"[" * 100_000) | st.just(b'{"bytes": 99999999999999}'),
        st.binary(max_size=20),
        st.none() | st.integers(0, (1 << 32) - 1),
    ),
    st.builds(
        lambda trees: framed({"op": "observe", "observations": trees, "bytes": 0}),
        st.lists(
            st.fixed_dictionaries(
                {"features": ANY_JSON | st.just(np.zeros((4, 4)).tolist())},
                optional={"condition": ANY_JSON, "span": ANY_JSON, "id": ANY_JSON, "text": ANY_JSON},
            )
            | ANY_JSON,
            max_size=4,
        ),
    ),
)


@pytest.fixture
def door(tmp_path, release):
    serving = Serving()
    serving.serve(served_with(release, None))
    inbox = Inbox(tmp_path / "spool", 1 << 20, lambda: Expected((1, 4, 4), 10))
    serves = operations(serving, lambda: {"name": "device-1"}, lambda _: None, lambda *_: {"ms": 1.0}, max_count=4)
    kept = keeping(lambda _: [], lambda _: Forgotten(0, 0, []))
    all_of_them = {**serves, **governing(lambda: None, lambda _: []), **kept, **observing(inbox.take)}
    door = ControlSocket(tmp_path / "agent.sock", all_of_them)
    yield tmp_path / "agent.sock"
    door.close()


def patient(door):
    """A line that has its place, also while callers before it are still being seen off."""
    for _ in range(200):
        line = AgentLine(door)
        try:
            line.ask("status")
            return line
        except LinkDown:
            line.__exit__()
            time.sleep(0.02)
    return pytest.fail("no place became free")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(FRAMES, min_size=1, max_size=3))
def test_whatever_is_sent_is_answered_or_closed_and_a_caller_beside_it_goes_on(door, frames):
    with patient(door) as beside, socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(30)
        caller.connect(str(door))
        try:
            caller.sendall(b"".join(frames))
            caller.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, OSError):
            pass  # it was closed before all was sent
        with caller.makefile("rb") as incoming:
            try:
                while (frame := read_frame(incoming.read)) is not None:
                    assert isinstance(frame[0], dict)
            except ConnectionResetError:
                pass
        assert beside.ask("status")[0] == {"status": {"name": "device-1"}}


def test_an_operation_that_breaks_is_said_and_ends_neither_caller_nor_door(tmp_path, caplog):
    def breaks(_):
        raise ZeroDivisionError("secret detail")

    door = ControlSocket(tmp_path / "agent.sock", {"break": breaks, "status": lambda _: ({"status": 1}, b"")})
    with AgentLine(tmp_path / "agent.sock") as line:
        with pytest.raises(Exception, match="its log says why") as told:
            line.ask("break")
        assert "secret" not in str(told.value)
        assert line.ask("status")[0] == {"status": 1}
    door.close()
    assert "ZeroDivisionError" in caplog.text


def test_many_may_talk_nonsense_at_once(door):
    def babble(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(door))
                try:
                    caller.sendall(rng.bytes(50))
                except OSError:
                    continue

    crowd = [threading.Thread(target=babble, args=(seed,)) for seed in range(4)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    with patient(door) as line:
        assert line.ask("status")[0]


def test_observations_come_in_until_too_many_files_wait_and_then_are_asked_to_wait(door, tmp_path):
    one = {"features": np.zeros((4, 4)).tolist(), "condition": 5, "id": "a"}
    with AgentLine(door) as line:
        told, _ = line.ask("observe", observations=[one, {"features": "x"}, {**one, "condition": 99}, one])
        assert (told["done"], told["taken"], told["wait"]) == (4, 2, None)
        assert [each["index"] for each in told["refused"]] == [1, 2]
        while told["wait"] is None:
            told, _ = line.ask("observe", observations=[one])
        assert told == {"done": 0, "taken": 0, "refused": [], "wait": {"files": 8, "retry_after_s": 0.5}}
        for path in (tmp_path / "spool").glob("*.safetensors"):
            path.unlink()
        assert line.ask("observe", observations=[one])[0]["taken"] == 1


def test_what_does_not_fit_before_it_has_to_wait_is_not_refused_twice(door, tmp_path):
    small, large = (
        {"features": np.zeros((side, side)).tolist(), "span": span} for side, span in ((4, "0..1"), (4, None))
    )
    with AgentLine(door) as line:
        told, _ = line.ask("observe", observations=[small, large] * 10 + [{"features": 1}])
        assert (told["done"], told["taken"], told["refused"]) == (8, 8, [])
        assert told["wait"]["files"] == 8


def test_only_a_socket_is_removed_from_under_its_name(tmp_path):
    (tmp_path / "agent.sock").write_text("a person's notes")
    with pytest.raises(StateError, match="something else is there"):
        ControlSocket(tmp_path / "agent.sock", {})
    assert (tmp_path / "agent.sock").read_text() == "a person's notes"


def test_a_frame_of_observations_holds_a_thousand_and_no_more(door):
    with AgentLine(door) as line, pytest.raises(Exception, match="1 to 1024"):
        line.ask("observe", observations=[{}] * 1025)
    assert encode_frame({"op": "observe"})
