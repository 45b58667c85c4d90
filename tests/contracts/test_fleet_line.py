"""The fog's side of Flower and the device's side, in one process: what they promise each other and their users."""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2
from flwr.proto.node_pb2 import Node

from edge_agent.drivers.fleet_link import FleetLink
from edge_agent.drivers.fog_line import FogLine, NotLetIn, Rejected, pause_s
from fog_aggregator.drivers.flower_superlink import EmbeddedSuperlink
from fog_aggregator.drivers.public_port import answer
from learning_core.errors import ConfigError, Malformed, StateError
from simulations.bench.fog_and_device import HOST, read_key
from simulations.bench.small_fleet import make_certificate, make_key


@dataclass
class Site:
    """A fog in this process; `seen` is what its tap was shown."""

    folder: Path
    fleet: EmbeddedSuperlink
    seen: list[tuple[str, RecordDict]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.fleet.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        make_key(self.folder / name)
        return read_key(self.folder / name)

    def let_in(self, name: str) -> int:
        return self.fleet.enroll(make_key(self.folder / name), name)

    @contextlib.contextmanager
    def connected(self, name: str, app: ClientApp) -> Iterator[FleetLink]:
        link, stop = FleetLink(self.address, self.ca, self.key(name), app), threading.Event()
        thread = threading.Thread(target=link.run, args=(stop,))
        thread.start()
        try:
            yield link
        finally:
            stop.set()
            thread.join(5)
            assert not thread.is_alive()

    def ask(self, kind: str, node: int, content: RecordDict) -> RecordDict:
        (message_id,) = self.fleet.push(kind, {node: content}, 30.0)
        (reply,) = self.fleet.pull([message_id], 10.0)
        assert (reply.message_id, reply.node_id, reply.error) == (message_id, node, "")
        return reply.content


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    make_certificate(folder)
    seen: list[tuple[str, RecordDict]] = []
    running = Site(folder, _superlink(folder, 0, lambda direction, content: seen.append((direction, content))), seen)
    yield running
    running.fleet.close()


def test_a_key_nobody_let_in_is_refused_and_the_device_lives_on_until_it_is_let_in(site):
    with site.connected("newcomer", echoing()) as link:
        _until(lambda: "enrol" in link.trouble)
        node = site.let_in("newcomer")
        _until(lambda: not link.trouble)
        assert node in site.fleet.online()
    assert node not in site.fleet.online()


def test_enrolling_again_changes_nothing_and_only_p384_keys_are_let_in(site):
    assert site.let_in("twice") == site.let_in("twice")
    for odd in (b"", b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", _public(ec.SECP256R1())):
        with pytest.raises(Malformed, match="P-384"):
            site.fleet.enroll(odd, "odd")


def test_a_query_is_answered_while_the_device_trains(site):
    node = site.let_in("busy")
    release = threading.Event()
    with site.connected("busy", echoing(lambda: release.wait(10))):
        _until(lambda: node in site.fleet.online())
        (training,) = site.fleet.push("train", {node: _content(1)}, 30.0)
        for number in range(3):
            assert site.ask("query.status", node, _content(number)) == _content(number)
        assert site.fleet.pull([training], 0.0) == []
        release.set()
        (reply,) = site.fleet.pull([training], 5.0)
        assert reply.content == _content(1)


def test_what_is_over_leaves_nothing_behind_in_flower(site):
    absent, node = site.let_in("never-there"), site.let_in("tidy")
    with site.connected("tidy", echoing()):
        _until(lambda: node in site.fleet.online())
        for number in range(3):
            site.ask("train", node, _content(number))
        site.fleet.pull(site.fleet.push("train", {absent: _content(1)}, 30.0), 5.0)
        state = site.fleet._nodes.state
        _until(lambda: len(state.object_store) == state.num_message_ins() == state.num_message_res() == 0)


def test_a_run_that_flower_gave_up_is_followed_by_another(site):
    node = site.let_in("survivor")
    with site.connected("survivor", echoing()):
        _until(lambda: node in site.fleet.online())
        ended = site.fleet._run.id
        site.fleet._nodes.state.finish_task(site.fleet._run._task.task_id, "failed", "as if the machine had slept")
        assert site.ask("train", node, _content(5)) == _content(5)
        assert site.fleet._run.id != ended


def test_a_device_that_lost_its_line_is_not_asked_twice_for_what_it_still_does(site):
    node = site.let_in("unlucky")
    release, begun = threading.Event(), []
    with site.connected("unlucky", echoing(lambda: (begun.append(1), release.wait(10)))) as link:
        _until(lambda: node in site.fleet.online())
        (training,) = site.fleet.push("train", {node: _content(1)}, 30.0)
        _until(lambda: begun != [])
        link._node_id = None  # as after a broken connection: it says hello again
        site.ask("query.status", node, _content(2))
        site.ask("query.status", node, _content(3))
        release.set()
        (reply,) = site.fleet.pull([training], 5.0)
        assert reply.content == _content(1)
        time.sleep(0.2)
    assert begun == [1]


def test_the_tap_sees_what_goes_down_and_what_comes_up(site):
    node = site.let_in("tapped")
    with site.connected("tapped", echoing()):
        _until(lambda: node in site.fleet.online())
        site.seen.clear()
        site.ask("query.status", node, _content(7))
    assert site.seen == [("to_device", _content(7)), ("from_device", _content(7))]


def test_an_app_that_fails_is_an_error_reply_and_not_the_end_of_the_device(site):
    node = site.let_in("clumsy")
    calls = iter([True, False])

    def stumble() -> None:
        if next(calls):
            raise ZeroDivisionError("on purpose")

    with site.connected("clumsy", echoing(stumble)):
        _until(lambda: node in site.fleet.online())
        (message_id,) = site.fleet.push("train", {node: _content(1)}, 30.0)
        (reply,) = site.fleet.pull([message_id], 5.0)
        assert reply.content is None
        assert reply.error == "the device failed: ZeroDivisionError: on purpose"
        assert site.ask("train", node, _content(2)) == _content(2)


def test_a_device_that_is_not_there_is_reported_at_once_and_an_unknown_node_is_not_written_to(site):
    node = site.let_in("absent")
    (message_id,) = site.fleet.push("query.status", {node: _content(0)}, 30.0)
    (reply,) = site.fleet.pull([message_id], 5.0)
    assert (reply.content, reply.error) == (None, "the device is offline")
    assert site.fleet.push("query.status", {12345: _content(0)}, 30.0) == {}


def test_the_public_port_publishes_the_fleet_api_and_nothing_else(site):
    with _browser(site) as browser:
        hidden = ("/v1/control/list-runs", "/v1/control/start-run", "/v1/control/register-node")
        hidden += (
            "/v1/runtime/acquire-task",
            "/v1/fleet/register-node",
            "/v1/fleet/unregister-node",
            "/docs",
            "/openapi.json",
        )
        assert {path: browser.post(path).status_code for path in (*hidden, "/", "/health")} == dict.fromkeys(
            (*hidden, "/", "/health"), 404
        )
        assert browser.get("/v1/fleet/pull-messages").status_code == 404
        for route in ("activate-node", "pull-messages", "send-node-heartbeat"):
            keyless = browser.post(f"/v1/fleet/{route}", headers={"content-type": "application/protobuf"})
            assert (route, keyless.status_code) == (route, 401)
        assert browser.get("/v1/dewfall/anything").text == "ours"


def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_its_size(site):
    site.let_in("greedy")
    with contextlib.closing(FogLine(site.address, site.ca, site.key("greedy"))) as line, _browser(site) as browser:
        headers, megabyte = line.signature(), b"\0" * (1 << 20)
        stated = browser.post("/v1/fleet/push-object", headers=headers, content=megabyte * 65)
        streamed = browser.post("/v1/fleet/push-object", headers=headers, content=(megabyte for _ in range(65)))
    assert (stated.status_code, streamed.status_code) == (413, 413)


def test_a_reply_the_fog_will_not_take_is_told_as_an_error(site):
    node = site.let_in("wordy")
    app = ClientApp()
    app.train()(lambda message, _: Message(_large(66 << 20), reply_to=message))
    with site.connected("wordy", app):
        _until(lambda: node in site.fleet.online())
        (message_id,) = site.fleet.push("train", {node: _content(1)}, 30.0)
        (reply,) = site.fleet.pull([message_id], 20.0)
    assert reply.content is None
    assert "more than the 67108864 a fog takes" in reply.error


def test_a_device_cannot_speak_for_another(site):
    victim, _ = site.let_in("victim"), site.let_in("rogue")
    with contextlib.ExitStack() as stack:
        asked, rogue = (
            stack.enter_context(contextlib.closing(FogLine(site.address, site.ca, site.key(name))))
            for name in ("victim", "rogue")
        )
        asked.call("activate-node", _hello(asked), fleet_pb2.ActivateNodeResponse)
        own = rogue.call("activate-node", _hello(rogue), fleet_pb2.ActivateNodeResponse).node_id
        (message_id,) = site.fleet.push("train", {victim: _content(1)}, 30.0)
        pull = fleet_pb2.PullMessagesRequest(node=Node(node_id=victim))
        with pytest.raises(NotLetIn):
            rogue.call("pull-messages", pull, fleet_pb2.PullMessagesResponse)
        (question,) = asked.call("pull-messages", pull, fleet_pb2.PullMessagesResponse).messages_list
        for source in (victim, own):
            forged = _forged(source, question.metadata)
            request = fleet_pb2.PushMessagesRequest(node=Node(node_id=own), messages_list=[forged])
            with pytest.raises(Rejected, match="403"):
                rogue.call("push-messages", request, fleet_pb2.PushMessagesResponse)
        request = fleet_pb2.PushMessagesRequest(node=Node(node_id=victim), messages_list=[forged])
        with pytest.raises((NotLetIn, Rejected)):
            rogue.call("push-messages", request, fleet_pb2.PushMessagesResponse)
    assert all(reply.content is None for reply in site.fleet.pull([message_id], 0.0))


def test_a_device_whose_clock_is_wrong_learns_the_time_from_the_fog(site):
    node = site.let_in("late")
    line = FogLine(site.address, site.ca, site.key("late"), lambda: datetime.now(UTC) - timedelta(days=900))
    hello = _hello(line)
    with contextlib.closing(line):
        with pytest.raises(NotLetIn):
            line.call("activate-node", hello, fleet_pb2.ActivateNodeResponse)
        assert line.call("activate-node", hello, fleet_pb2.ActivateNodeResponse).node_id == node


def test_bytes_are_counted_alike_on_both_sides(site):
    node = site.let_in("counted")
    with site.connected("counted", echoing()) as link:
        _until(lambda: node in site.fleet.online())
        received, sent = site.fleet.traffic()
        site.ask("train", node, _large(100_000))
        time.sleep(0.2)
        received, sent = (after - before for after, before in zip(site.fleet.traffic(), (received, sent), strict=True))
        up, down = link.traffic()
    assert 100_000 < sent < 103_000
    assert 105_000 < received < 112_000  # ten requests, each with the proof of the key in its head
    assert abs(up - received) < 4_000  # a request that is held is counted on one side already
    assert abs(down - sent) < 2_000


def test_a_damaged_node_book_and_a_wrong_certificate_are_told_in_one_sentence(site, tmp_path):
    (tmp_path / "fog").mkdir()
    (tmp_path / "fog" / "flower.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StateError, match=r"flower\.db"):
        _superlink(tmp_path, 0)
    with pytest.raises(ConfigError, match="certificate"):
        FleetLink(site.address, tmp_path / "fog" / "flower.db", site.key("twice"), echoing())
    with pytest.raises(ConfigError, match="host:port"):
        FleetLink("fog:port", site.ca, site.key("twice"), echoing())


def test_pauses_grow_and_stay_bounded():
    pauses = [pause_s(failures, 0.5) for failures in (1, 2, 4, 30, 61, 1000)]
    assert pauses == pytest.approx([0.1, 0.2, 0.8, 1.0, 15.0, 15.0])
    assert pause_s(30, 0.0) < 1.0 < pause_s(30, 1.0) < 1.5


def echoing(before: Callable[[], object] = lambda: None) -> ClientApp:
    """An app that sends back what it was sent; `before` runs first when it trains."""
    app = ClientApp()

    @app.query("status")
    def status(message: Message, _: Context) -> Message:
        return Message(message.content, reply_to=message)

    @app.train()
    def train(message: Message, _: Context) -> Message:
        before()
        return Message(message.content, reply_to=message)

    return app


async def ours(scope, receive, send) -> None:
    await answer(send, 200, b"ours")


def _superlink(folder: Path, port: int, tap=lambda *_: None) -> EmbeddedSuperlink:
    (folder / "fog").mkdir(exist_ok=True)
    return EmbeddedSuperlink(folder / "fog", HOST, port, folder / "fog.crt", folder / "fog.key", ours, tap)


def _content(number: int) -> RecordDict:
    return RecordDict({"config": ConfigRecord({"number": number})})


def _large(num_bytes: int) -> RecordDict:
    return RecordDict({"config": ConfigRecord({"blob": b"x" * num_bytes})})


def _forged(source: int, question):
    metadata = Metadata(question.run_id, "f" * 64, source, 1, question.message_id, "", time.time(), 10.0, "train")
    return message_to_proto(make_message(metadata=metadata, content=_content(666)))


def _hello(line: FogLine) -> fleet_pb2.ActivateNodeRequest:
    return fleet_pb2.ActivateNodeRequest(public_key=line.public_key, heartbeat_interval=30.0)


def _public(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _browser(site: Site) -> httpx.Client:
    trust = ssl.create_default_context(cafile=str(site.ca))
    return httpx.Client(base_url=f"https://{site.address}", verify=trust, trust_env=False)


def _until(holds: Callable[[], bool], limit_s: float = 10.0) -> None:
    until_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.01)
