"""What a device can ask of its fog besides Flower: to be enrolled, and the files of a release. An ASGI application."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fog_aggregator.drivers.public_port import Receive, Scope, Send, answer, read_body
from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment, TokenUse
from fog_aggregator.drivers.wire_tap import Crossing, Tap
from fog_aggregator.plans import Device
from learning_core.errors import DewfallError, Malformed

ENROLL = "/v1/dewfall/enroll"
RELEASES = "/v1/dewfall/releases/"
_MAX_BODY_BYTES = 8 << 10
_PIECE_BYTES = 256 << 10
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_FILE = re.compile(r"([1-9][0-9]{0,8})/([^/]{1,80})", re.ASCII)


class DeviceRoutes:
    """Holds nothing of its own. `enroll` lets a key into the fleet and gives its node id."""

    def __init__(
        self,
        fog: str,
        enrolment: SqliteEnrolment,
        mirror: ReleaseMirror,
        enroll: Callable[[bytes, str], int],
        enrolled: Callable[[Device], None] = lambda _: None,
        tap: Tap = lambda _: None,
    ) -> None:
        self._fog = fog
        self._enrolment = enrolment
        self._mirror = mirror
        self._enroll = enroll
        self._enrolled = enrolled
        self._tap = tap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if path == ENROLL:
            if method != "POST":
                return await _refuse(send, 405, "enrol with POST")
            data = await read_body(receive)
            status, reply = await asyncio.to_thread(self.enroll, data)
            self._tap(Crossing("device", "up", "enroll", "", dict.fromkeys(_keys(data), "str"), len(data)))
            return await _tell(send, status, reply)
        if method != "GET" or not path.startswith(RELEASES):
            return await _refuse(send, 404, "there is nothing under this path")
        if path == f"{RELEASES}latest":
            return await self._latest(send)
        found = _FILE.fullmatch(path.removeprefix(RELEASES))
        file = self._mirror.file(int(found[1]), found[2]) if found else None
        if file is None:
            return await _refuse(send, 404, "this fog has no such file")
        return await self._send_file(send, file)

    def enroll(self, data: bytes) -> tuple[int, Mapping[str, str]]:
        """Bind the token to the key, let the key into the fleet, write the device down: each step may be repeated."""
        try:
            token, name, key = _read_enrolment(data)
            match self._enrolment.bind(token, key):
                case TokenUse.UNKNOWN:
                    return 403, {"error": "this fog does not know that token; ask for a new one with `enroll-token`"}
                case TokenUse.TAKEN:
                    return 409, {"error": "another device has used that token; ask for a new one with `enroll-token`"}
            device = Device(self._enroll(key, name), name, key)
            self._enrolment.admit(device)
        except Malformed as error:
            return 400, {"error": str(error)}
        except DewfallError as error:
            return 503, {"error": f"the fog cannot enrol devices now: {error}"}
        self._enrolled(device)
        return 200, {"node_id": str(device.node_id), "fog": self._fog}

    async def _latest(self, send: Send) -> None:
        found = self._mirror.latest()
        if found is None:
            return await _refuse(send, 404, "this fog has no release yet; ask again later")
        return await _tell(send, 200, {"version": found[0].version, "manifest_sha256": found[0].manifest_sha256})

    async def _send_file(self, send: Send, path: Path) -> None:
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(size).encode())]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while piece := file.read(_PIECE_BYTES):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except FileNotFoundError:  # an old release, forgotten this moment
            await _refuse(send, 404, "this fog has no such file")
            return
        self._tap(Crossing("device", "down", "release", "", {"file": path.name}, size))


def _read_enrolment(data: bytes) -> tuple[str, str, bytes]:
    """Token, name and the key as canonical PEM. Raises Malformed."""
    tree = _parsed(data)
    if not isinstance(tree, dict) or tree.keys() != {"token", "name", "public_key"}:
        raise Malformed("an enrolment is a JSON object with exactly token, name and public_key")
    token, name, key = tree["token"], tree["name"], tree["public_key"]
    if not (isinstance(token, str) and isinstance(name, str) and isinstance(key, str)):
        raise Malformed("token, name and public_key have to be text")
    if not _NAME.fullmatch(name):
        raise Malformed("a device's name is 1 to 64 letters, digits, dots, dashes and underscores")
    try:
        public = load_pem_public_key(key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("public_key is not a public key in PEM") from error
    if not isinstance(public, EllipticCurvePublicKey) or public.curve.name != "secp384r1":
        raise Malformed("public_key has to be an elliptic-curve key on P-384")
    return token, name, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _parsed(data: bytes) -> Any:
    if len(data) > _MAX_BODY_BYTES:
        raise Malformed(f"an enrolment takes at most {_MAX_BODY_BYTES} bytes")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error


def _keys(data: bytes) -> list[str]:
    try:
        tree = _parsed(data)
    except Malformed:
        return []
    return [str(key)[:100] for key in tree] if isinstance(tree, dict) else []


async def _tell(send: Send, status: int, reply: Mapping[str, Any]) -> None:
    await answer(send, status, json.dumps(reply).encode(), b"application/json")


async def _refuse(send: Send, status: int, sentence: str) -> None:
    await _tell(send, status, {"error": sentence})
