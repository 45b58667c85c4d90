"""One suite for the Fleet port: the embedded SuperLink with devices on real links, and the simulated stand-in."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.drivers.fleet_link import FleetLink
from edge_agent.session import make_client_app
from fog_aggregator.drivers.flower_superlink import EmbeddedSuperlink
from fog_aggregator.drivers.public_port import answer
from learning_core.federation.privacy import clip
from learning_core.updates import ModelVersion, Update
from protos.certificates import CertificateFiles, ensure_certificate
from protos.flower_records import (
    QUERY_STATUS,
    TRAIN,
    DeviceStatus,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_device_status,
    decode_train_reply,
    encode_status_query,
    encode_train_request,
)
from simulations.links import SimulatedFleet, SimulatedLink, VirtualClock, answers_of

SHAPES = {"w": (3,)}
QUERY = encode_status_query(StatusQuery("fog-a", 1, "ab" * 32))


class Device:
    def __init__(self, train_s: float = 0.0) -> None:
        self.train_s = train_s

    def adapter_shapes(self):
        return SHAPES

    def status(self, query):
        return DeviceStatus(True, "fine", query.latest_release, 7, {})

    def train(self, request):
        time.sleep(self.train_s)
        update = Update({"w": request.shared["w"] + 1}, 5, request.base_version)
        return Trained(request.round, clip(update, request.clip_norm), {})


@dataclass
class Fleet:
    """A fleet under test and a way to connect a device to it."""

    port: Any
    connect: Any

    def train_request(self, value=0.0, shapes=SHAPES):
        shared = {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}
        return encode_train_request(TrainRequest("fog-a", 1, ModelVersion(1), shared, 10.0, 0.0, 1.0, 5.0))


def a_key():
    return ec.generate_private_key(ec.SECP384R1())


def pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def superlink(tmp_path_factory) -> Iterator[tuple[EmbeddedSuperlink, CertificateFiles]]:
    folder = tmp_path_factory.mktemp("fog")
    files = CertificateFiles(*(folder / name for name in ("ca.crt", "ca.key", "leaf.crt", "leaf.key")))
    ensure_certificate(files, "test fog", ["127.0.0.1"], time.time())

    async def no_routes(scope, receive, send):
        await answer(send, 404)

    link = EmbeddedSuperlink(folder, "127.0.0.1", 0, files.certificate, files.private_key, no_routes)
    yield link, files
    link.close()


@pytest.fixture(params=["simulated", "embedded"])
def fleet(request) -> Iterator[Fleet]:
    if request.param == "simulated":
        clock = VirtualClock()
        simulated = SimulatedFleet(clock)

        @contextlib.contextmanager
        def join(key, device):
            link = SimulatedLink(answers_of(device), {TRAIN: device.train_s})
            device.train_s = 0.0
            node = simulated.join(pem(key), link)
            yield node
            link.online = False

        yield Fleet(simulated, join)
        return
    link, files = request.getfixturevalue("superlink")

    @contextlib.contextmanager
    def connect(key, device):
        node = link.enroll(pem(key), "device")
        line = FleetLink(f"127.0.0.1:{link.port}", files.authority, key, make_client_app(device))
        stop = threading.Event()
        thread = threading.Thread(target=line.run, args=(stop,))
        thread.start()
        deadline = time.monotonic() + 10
        while node not in link.online():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield node
        stop.set()
        thread.join(10)

    yield Fleet(link, connect)


def test_a_key_has_one_node_id_however_often_it_enrols(fleet):
    key, other = pem(a_key()), pem(a_key())

    assert fleet.port.enroll(key, "device") == fleet.port.enroll(key, "renamed")
    assert fleet.port.enroll(key, "device") != fleet.port.enroll(other, "device")


def test_a_device_is_online_while_it_is_connected(fleet):
    key = a_key()
    assert fleet.port.enroll(pem(key), "device") not in fleet.port.online()

    with fleet.connect(key, Device()) as node:
        assert node in fleet.port.online()
        fleet.port.pull(fleet.port.push(QUERY_STATUS, {node: QUERY}, 10.0), 5.0)
        time.sleep(0.3)  # let its next pull begin: a goodbye that a pull overtakes is forgotten for some seconds
    assert node not in fleet.port.online()


def test_a_query_comes_back_with_the_devices_answer(fleet):
    with fleet.connect(a_key(), Device()) as node:
        ((message_id, sent_to),) = fleet.port.push(QUERY_STATUS, {node: QUERY}, 10.0).items()
        (reply,) = fleet.port.pull([message_id], 5.0)

    assert sent_to == reply.node_id == node
    assert (reply.message_id, reply.error) == (message_id, "")
    assert decode_device_status(reply.content) == DeviceStatus(True, "fine", 1, 7, {})


def test_an_update_comes_back_bit_for_bit(fleet):
    with fleet.connect(a_key(), Device()) as node:
        sent = fleet.port.push(TRAIN, {node: fleet.train_request(0.1)}, 10.0)
        (reply,) = fleet.port.pull(sent, 5.0)

    trained = decode_train_reply(reply.content, SHAPES)
    np.testing.assert_array_equal(trained.update.update.delta["w"], np.full(3, np.float32(0.1) + 1))


def test_a_reply_is_given_once(fleet):
    with fleet.connect(a_key(), Device()) as node:
        sent = fleet.port.push(QUERY_STATUS, {node: QUERY}, 10.0)
        assert len(fleet.port.pull(sent, 5.0)) == 1
        again = fleet.port.pull(sent, 0.1)

    assert [reply.content for reply in again] in ([], [None])


def test_pull_comes_back_empty_when_nothing_is_there_in_time(fleet):
    with fleet.connect(a_key(), Device(train_s=1.0)) as node:
        sent = fleet.port.push(TRAIN, {node: fleet.train_request()}, 10.0)

        assert fleet.port.pull(sent, 0.1) == []
        assert len(fleet.port.pull(sent, 5.0)) == 1


def test_a_device_answers_a_query_while_it_trains(fleet):
    with fleet.connect(a_key(), Device(train_s=1.0)) as node:
        training = fleet.port.push(TRAIN, {node: fleet.train_request()}, 10.0)
        query = fleet.port.push(QUERY_STATUS, {node: QUERY}, 10.0)

        (first,) = fleet.port.pull([*training, *query], 5.0)
        (second,) = fleet.port.pull(training, 5.0)

    assert first.message_id in query
    assert second.content is not None


def test_a_node_nobody_enrolled_is_sent_nothing(fleet):
    assert fleet.port.push(QUERY_STATUS, {12345: QUERY}, 10.0) == {}


def test_a_message_to_a_device_that_is_gone_gets_a_sentence_instead_of_content(fleet):
    with fleet.connect(a_key(), Device()) as node:
        pass
    sent = fleet.port.push(QUERY_STATUS, {node: QUERY}, 2.0)

    (reply,) = fleet.port.pull(sent, 5.0)

    assert reply.content is None
    assert "offline" in reply.error


def test_a_request_the_device_cannot_read_gets_its_words_instead_of_content(fleet):
    with fleet.connect(a_key(), Device()) as node:
        sent = fleet.port.push(TRAIN, {node: fleet.train_request(shapes={"other": (2,)})}, 10.0)
        (reply,) = fleet.port.pull(sent, 5.0)

    assert reply.content is None
    assert "do not fit the model" in reply.error
