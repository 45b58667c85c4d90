"""The door by HTTP: what it answers, whom it lets in, and that nothing sent to it hurts anybody else."""

import http.client
import json
import socket
import stat
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.config import ServingSettings
from edge_agent.drivers import http_door
from edge_agent.drivers.http_door import MAX_CALLERS, HttpDoor, token_in
from edge_agent.drivers.inbox import Inbox
from edge_agent.normalise.image_files import read_image
from edge_agent.observation import Expected
from edge_agent.operations import observing, operations
from edge_agent.serving import Serving
from learning_core.errors import PortInUse, StateError

TOKEN = "t" * 43


@pytest.fixture
def serving(release):
    from edge_agent.serving import served_with

    serving = Serving()
    serving.serve(served_with(release, None))
    return serving


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def door(serving, spool):
    inbox = Inbox(spool, 1 << 20, lambda: Expected((1, 4, 4), 10))
    made = operations(serving, lambda: {"name": "device-1"}, lambda _: None, lambda *_: {}, max_count=64)
    door = HttpDoor("127.0.0.1:0", {**made, **observing(inbox.take)}, TOKEN)
    yield door
    door.close()


def ask(door, method, path, body=None, token=TOKEN, host=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=30)
    sent = {name.replace("_", "-"): each for name, each in headers.items()}
    sent["Host"] = host or f"127.0.0.1:{door.port}"
    if token:
        sent["Authorization"] = f"Bearer {token}"
    if body is not None and "Content-Type" not in sent:
        sent["Content-Type"] = "application/json"
    connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data, dict(answer.getheaders())


def test_status_and_samples_are_those_of_the_control_socket(door, serving):
    status, data, headers = ask(door, "GET", "/v1/status")
    assert (status, json.loads(data)) == (200, {"status": {"name": "device-1"}})
    assert not any(name.lower().startswith("access-control") for name in headers)
    drawn = serving.answer([3, 1], seed=7)
    _, data, _ = ask(door, "POST", "/v1/infer", {"conditions": [3, 1], "seed": 7})
    np.testing.assert_array_equal(np.array(json.loads(data)["samples"], np.float32), drawn)
    asked = {"conditions": [3, 1], "seed": 7}
    _, data, headers = ask(door, "POST", "/v1/infer", asked, Accept="application/octet-stream")
    assert headers["X-Shape"] == "2,1,4,4"
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(2, 1, 4, 4), drawn)
    _, data, headers = ask(door, "POST", "/v1/infer", {"conditions": [3], "seed": 7}, Accept="image/png")
    assert headers["Content-Type"] == "image/png"
    assert read_image(data).shape == (32, 32)


def test_observations_reach_the_spool_until_too_many_files_wait(door, spool):
    one = {"features": np.zeros((4, 4)).tolist(), "condition": 5}
    status, data, _ = ask(door, "POST", "/v1/observe", one)
    assert (status, json.loads(data)) == (200, {"done": 1, "taken": 1, "refused": [], "wait": None})
    status, data, _ = ask(door, "POST", "/v1/observe", {"observations": [one, {"features": [1]}, one]})
    told = json.loads(data)
    assert (told["taken"], [each["index"] for each in told["refused"]]) == (2, [1])
    assert ask(door, "POST", "/v1/observe", {"features": [1]})[0] == 422
    while status == 200:
        status, data, headers = ask(door, "POST", "/v1/observe", one)
    assert (status, headers["Retry-After"], json.loads(data)["done"]) == (429, "1", 0)
    assert len(list(spool.glob("*.safetensors"))) == 8


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (401, {"token": None}),
        (401, {"token": "wrong"}),
        (421, {"host": "evil.example"}),
        (421, {"host": "127.0.0.1:1"}),
        (421, {"host": "127.0.0.1.evil.example:80"}),
        (403, {"Origin": "http://127.0.0.1"}),
        (403, {"Sec_Fetch_Site": "cross-site"}),
        (404, {"path": "/v1/forget"}),
        (404, {"path": "/v1/status?x=1"}),
        (404, {"path": "//v1/../etc/passwd"}),
        (405, {"method": "DELETE"}),
        (405, {"method": "OPTIONS"}),
        (405, {"method": "POST"}),
    ],
)
def test_who_may_not_come_in_is_told_why_and_gets_nothing(door, status, how):
    how = {"method": "GET", "path": "/v1/status", **how}
    got, data, headers = ask(door, how.pop("method"), how.pop("path"), **how)
    assert got == status
    assert json.loads(data).keys() == {"error"}
    assert headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (415, b"{}", {"Content_Type": "text/plain"}),
        (400, b"{", {}),
        (400, b"[]", {}),
        (400, b"[" * 100_000, {}),
        (411, b"{}", {"Transfer_Encoding": "chunked"}),
        (411, b"{}", {"Content_Length": "+2"}),
        (413, b"", {"Content_Length": str(1 << 30)}),
        (422, b'{"conditions": [10]}', {}),
        (422, b'{"conditions": [99999999999999999999]}', {}),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_a_sentence(door, status, body, headers):
    got, data, _ = ask(door, "POST", "/v1/infer", body, **headers)
    assert got == status
    assert json.loads(data)["error"]


def raw(door, data, patience_s=30.0):
    """What comes back for these bytes until the connection ends."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=patience_s) as caller:
        caller.sendall(data)
        caller.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while more := caller.recv(4096):
                answer += more
        except ConnectionResetError:
            pass
        return answer


def test_a_head_that_is_too_large_is_refused(door):
    head = b"GET /v1/status HTTP/1.1\r\n" + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n"
    assert b" 431 " in raw(door, head)
    assert b" 431 " in raw(door, b"GET /v1/status HTTP/1.1\r\n" + b"A: b\r\n" * 5_000)


def test_two_lengths_or_two_hosts_are_one_too_many(door):
    head = f"Host: 127.0.0.1:{door.port}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    two = f"POST /v1/infer HTTP/1.1\r\n{head}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"
    assert b" 411 " in raw(door, two.encode())
    hosts = f"GET /v1/status HTTP/1.1\r\n{head}Host: evil.example\r\n\r\n"
    assert b" 421 " in raw(door, hosts.encode())


def test_one_connection_carries_many_questions(door):
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=30)
    for _ in range(3):
        connection.request("GET", "/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})
        assert connection.getresponse().read()
    connection.close()


def test_a_slow_caller_is_cut_off_and_a_crowd_is_told_to_come_again(door, monkeypatch):
    monkeypatch.setattr(http_door, "REQUEST_WITHIN_S", 2.0)
    slow = [socket.create_connection(("127.0.0.1", door.port), timeout=30) for _ in range(MAX_CALLERS)]
    for caller in slow:
        caller.sendall(b"GET /v1/sta")
    answers = [raw(door, b"GET /v1/status HTTP/1.1\r\n\r\n")]
    while b" 503 " not in answers[-1] and len(answers) < 100:  # until every slow one has its place
        answers.append(raw(door, b"GET /v1/status HTTP/1.1\r\n\r\n"))
    assert b" 503 " in answers[-1]
    assert [caller.recv(1) for caller in slow] == [b""] * MAX_CALLERS
    for caller in slow:
        caller.close()
    for _ in range(200):
        try:
            status = ask(door, "GET", "/v1/status")[0]
        except ConnectionError:  # turned away before it had asked
            status = 503
        if status == 200:
            return
        time.sleep(0.02)
    pytest.fail("no place became free")


def test_one_large_body_at_a_time_is_a_tree_in_memory_and_nobody_with_a_small_one_waits_for_it():
    at_once, most, gate = [], [], threading.Event()

    def observe(header):
        at_once.append(len(header["observations"]))
        most.append(len(at_once))
        gate.wait(10)
        at_once.pop()
        return {"done": 0, "taken": 0, "refused": [], "wait": None}, b""

    door = HttpDoor("127.0.0.1:0", {"observe": observe, "status": lambda _: ({}, b"")}, None)
    large = {"observations": [[]] * 20_000}
    callers = [
        threading.Thread(target=lambda: ask(door, "POST", "/v1/observe", large, token=None))
        for _ in range(MAX_CALLERS - 2)
    ]
    for caller in callers:
        caller.start()
    while not most:
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(most) == 1
    assert ask(door, "GET", "/v1/status", token=None)[0] == 200
    gate.set()
    for caller in callers:
        caller.join()
    assert (len(most), max(most)) == (MAX_CALLERS - 2, 1)
    door.close()


REQUESTS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda verb, path, version, lines, body: b" ".join((verb, path, version)) + b"\r\n%s\r\n\r\n" % lines + body,
        st.sampled_from([b"GET", b"POST", b"HEAD", b"PRI", b"\x00"]),
        st.sampled_from([b"/v1/status", b"/v1/infer", b"/v1/observe", b"*", b"/%00", b"http://x/"]),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.999999999999", b"HTTP/x"]),
        st.lists(
            st.sampled_from(
                [
                    b"Host: 127.0.0.1:PORT",
                    b"Authorization: Bearer " + TOKEN.encode(),
                    b"Content-Type: application/json",
                    b"Content-Length: 20",
                    b"Content-Length: -1",
                    b"Expect: 100-continue",
                    b"Transfer-Encoding: chunked",
                    b"Connection: keep-alive",
                    b" folded",
                    b"\xff\xfe: \xff",
                    b":",
                ]
            ),
            max_size=8,
        ).map(b"\r\n".join),
        st.binary(max_size=60) | st.sampled_from([b'{"conditions": [1]} ', b'{"observations":[1]}']),
    ),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(REQUESTS)
def test_whatever_is_sent_is_answered_or_closed_and_the_next_caller_is_served(door, data):
    answer = raw(door, data.replace(b"PORT", str(door.port).encode()))
    assert answer == b"" or answer.startswith(b"HTTP/1.")
    assert TOKEN.encode() not in answer
    assert ask(door, "GET", "/v1/status")[0] == 200


def test_the_token_is_made_once_for_its_owner_alone_and_one_others_can_read_is_refused(tmp_path):
    token = token_in(tmp_path)
    assert token == token_in(tmp_path)
    assert len(token) >= 32
    path = tmp_path / "http.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(StateError, match="others can read it"):
        token_in(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("x" * 40)
    with pytest.raises(StateError, match="cannot be read as a token"):
        token_in(tmp_path)


def test_without_a_token_every_program_of_the_device_may_come_but_no_page(serving):
    made = operations(serving, lambda: {"name": "device-1"}, lambda _: None, lambda *_: {}, max_count=4)
    door = HttpDoor("127.0.0.1:0", made, None)
    assert ask(door, "GET", "/v1/status", token=None)[0] == 200
    assert ask(door, "GET", "/v1/status", token=None, Origin="http://x")[0] == 403
    with pytest.raises(PortInUse, match=r"set another serving\.http"):
        HttpDoor(f"127.0.0.1:{door.port}", made, None)
    door.close()


@pytest.mark.parametrize("address", ["0.0.0.0:8787", "192.168.1.2:8787", "8787", "127.0.0.1", "[::]:1", "example:80"])
def test_any_address_but_loopback_is_refused_with_a_sentence(address):
    with pytest.raises(ValidationError, match="for programs on this device"):
        ServingSettings(http=address)
    assert ServingSettings(http="localhost:1").http == "127.0.0.1:1"
