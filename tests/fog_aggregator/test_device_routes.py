import asyncio
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fog_aggregator.drivers.device_routes import ENROLL, RELEASES, DeviceRoutes
from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment
from learning_core.errors import StateError


def pem(key) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


KEY = pem(ec.generate_private_key(ec.SECP384R1()))


@pytest.fixture
def enrolment(tmp_path):
    file = JournalFile(tmp_path)
    yield SqliteEnrolment(file)
    file.close()


@pytest.fixture
def routes(enrolment, tmp_path, release_key):
    nodes: dict[bytes, int] = {}
    enroll = lambda key, name: nodes.setdefault(key, 2**63 + len(nodes))  # noqa: E731
    return DeviceRoutes("fog-a", enrolment, ReleaseMirror(tmp_path / "mirror", release_key), enroll)


def call(routes, method, path, body=b""):
    """One request; status and body of the answer."""
    answers = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(event):
        answers.append(event)

    asyncio.run(routes({"type": "http", "method": method, "path": path}, receive, send))
    return answers[0]["status"], b"".join(event.get("body", b"") for event in answers[1:])


def enrol(routes, **fields):
    return routes.enroll(json.dumps(fields).encode())


def test_a_device_is_enrolled_and_repeating_it_gives_the_same_answer(routes, enrolment):
    token = enrolment.make_token()
    body = json.dumps({"token": token, "name": "device-1", "public_key": KEY}).encode()

    first, again = call(routes, "POST", ENROLL, body), call(routes, "POST", ENROLL, body)

    assert first == again == (200, json.dumps({"node_id": str(2**63), "fog": "fog-a"}).encode())
    assert [(device.name, device.node_id) for device in enrolment.devices()] == [("device-1", 2**63)]


def test_a_token_lets_in_one_key_only(routes, enrolment):
    token = enrolment.make_token()
    enrol(routes, token=token, name="device-1", public_key=KEY)

    status, reply = enrol(routes, token=token, name="device-1", public_key=pem(ec.generate_private_key(ec.SECP384R1())))

    assert status == 409
    assert "another device has used that token" in reply["error"]
    assert len(enrolment.devices()) == 1


def test_a_crash_between_token_and_fleet_is_mended_by_asking_again(enrolment, tmp_path, release_key):
    token, tries = enrolment.make_token(), []

    def enroll(key, name):
        tries.append(key)
        if len(tries) == 1:
            raise StateError("the disk is full")
        return 5

    routes = DeviceRoutes("fog-a", enrolment, ReleaseMirror(tmp_path / "mirror", release_key), enroll)
    fields = {"token": token, "name": "device-1", "public_key": KEY}

    assert enrol(routes, **fields)[0] == 503
    assert enrol(routes, **fields) == (200, {"node_id": "5", "fog": "fog-a"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../evil"}, "a device's name is"),
        ({"name": ""}, "a device's name is"),
        ({"name": "x" * 65}, "a device's name is"),
        ({"public_key": "nonsense"}, "not a public key"),
        ({"public_key": pem(ec.generate_private_key(ec.SECP256R1()))}, "P-384"),
        ({"public_key": pem(ed25519.Ed25519PrivateKey.generate())}, "P-384"),
        ({"token": 7}, "have to be text"),
        ({"more": "fields"}, "exactly token, name and public_key"),
        ({"name": "x" * 9000}, "at most"),
    ],
)
def test_what_is_wrong_with_an_enrolment_is_said_and_nobody_gets_in(routes, enrolment, change, words):
    fields = {"token": enrolment.make_token(), "name": "device-1", "public_key": KEY} | change

    status, reply = enrol(routes, **fields)

    assert status == 400
    assert words in reply["error"]
    assert enrolment.devices() == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
            lambda tree: json.dumps(tree).encode()
        ),
    )
)
def test_no_bytes_break_the_enrolment(routes, enrolment, data):
    status, reply = routes.enroll(data)

    assert status in {400, 403}
    assert set(reply) == {"error"}
    assert enrolment.devices() == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_no_path_below_releases_gives_anything_but_404_without_a_release(routes, path):
    assert call(routes, "GET", RELEASES + path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", ENROLL, 405), ("POST", f"{RELEASES}latest", 404), ("GET", "/v1/dewfall/", 404)],
)
def test_other_methods_and_paths_are_refused(routes, method, path, status):
    assert call(routes, method, path)[0] == status
