"""A Flower SuperLink inside the fog's own process; the only file of this tier that touches Flower's private modules.

Flower's: the Fleet API (protobuf over HTTP), node keys and their check, the link state (SQLite) that knows the nodes.
Ours: a message carries its content inline instead of as a dozen objects fetched one by one, a pull is held until there
is something to fetch, an undelivered message is delivered again, and contents stay in memory, so that no device's
update is ever on the fog's disk. There is no Control or Runtime API: nobody outside can start a run or let in a key.
"""

import asyncio
import threading
import time
import uuid
import warnings
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common import constant
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes, verify_signature
from flwr.superlink.federation import NoOpFederationManager
from google.protobuf.message import DecodeError
from sqlalchemy.exc import SQLAlchemyError

from fog_aggregator.drivers.mailbox import Mailbox
from fog_aggregator.drivers.public_port import AsgiApp, PublicPort, Receive, Scope, Send, answer, read_body
from fog_aggregator.ports import Reply
from learning_core.errors import Malformed, StateError

HOLD_S = 10.0  # how long a pull waits for a message before it is told that there is none
OFFLINE_AFTER_S = 2 * HOLD_S  # every pull is a sign of life
OFFLINE_AFTER_HANG_UP_S = 10.0  # a device whose held pull broke off has this long to come back
PROTOBUF = b"application/protobuf"

_KEY, _STAMP, _SIGNATURE = (
    name.encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, constant.TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
)


class _Replaced(Exception):
    """A pull was held when the same key began another one."""


_STATUS = {DecodeError: 400, Malformed: 400, PermissionError: 401, _Replaced: 409, StateError: 503}


class EmbeddedSuperlink:
    """The fog's fleet. Saved: who the nodes are, in `<state>/flower.db`; what is in flight dies with the process."""

    def __init__(
        self,
        state: Path,
        host: str,
        port: int,
        certificate: Path,
        private_key: Path,
        routes: AsgiApp,
        tap: Callable[[str, RecordDict], None] = lambda *_: None,
    ) -> None:
        """Publish the Fleet API and `routes` (/v1/dewfall/*) on host:port.

        `tap` is shown every content, with "to_device" or "from_device". Raises PortInUse, ConfigError.
        """
        self._nodes = NodeBook(state / "flower.db")
        self._mail = Mailbox(self._is_online)
        self._tap = tap
        self._run_id = uuid.uuid4().int >> 66
        self._silent_at_s: dict[int, float] = {}  # node id -> when it counts as offline unless it is heard of again
        self._bells: dict[int, asyncio.Event] = {}  # node id -> wakes its held pull; only the port's loop touches it
        self._closing = False
        apps: dict[str, AsgiApp] = {"/v1/fleet/": self._fleet, "/v1/dewfall/": routes}
        try:
            self._port = PublicPort(host, port, certificate, private_key, apps)
        except BaseException:
            self._nodes.close()
            raise
        self.port = self._port.port

    def enroll(self, public_key: bytes, name: str) -> int:
        """See `Fleet`. Raises Malformed when this is no P-384 public key in PEM."""
        return self._nodes.enroll(public_key, name)

    def online(self) -> frozenset[int]:
        return frozenset(node_id for node_id in list(self._silent_at_s) if self._is_online(node_id))

    def push(self, kind: str, payloads: Mapping[int, RecordDict], ttl_s: float) -> dict[str, int]:
        sent, source, known = {}, constant.SUPERLINK_NODE_ID, self._nodes.ids()
        for node_id, content in payloads.items():
            if node_id in known:
                message_id, written_at = uuid.uuid4().hex, now().timestamp()
                metadata = Metadata(self._run_id, message_id, source, node_id, "", "", written_at, ttl_s, kind)
                self._tap("to_device", content)
                self._mail.post(message_id, node_id, make_message(metadata=metadata, content=content), ttl_s)
                sent[message_id] = node_id
        self._port.call_soon(lambda: self._ring(sent.values()))
        return sent

    def pull(self, message_ids: Collection[str], wait_s: float) -> list[Reply]:
        return self._mail.take(message_ids, wait_s)

    def traffic(self) -> tuple[int, int]:
        return self._port.traffic()

    def close(self) -> None:
        self._closing = True
        self._mail.close()
        self._port.call_soon(lambda: self._ring(list(self._bells)))
        self._port.close()
        self._nodes.close()

    def _is_online(self, node_id: int) -> bool:
        return self._silent_at_s.get(node_id, 0.0) > time.monotonic()

    def _heard_of(self, node_id: int, silent_after_s: float = OFFLINE_AFTER_S) -> None:
        self._silent_at_s[node_id] = time.monotonic() + silent_after_s

    def _ring(self, node_ids: Iterable[int]) -> None:
        for node_id in node_ids:
            if bell := self._bells.get(node_id):
                bell.set()

    async def _fleet(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Flower's Fleet API, as far as a device needs it: activate, deactivate, pull, push."""
        routes: dict[str, tuple[type[Any], Any]] = {
            "activate-node": (fleet_pb2.ActivateNodeRequest, self._activate),
            "deactivate-node": (fleet_pb2.DeactivateNodeRequest, self._deactivate),
            "pull-messages": (fleet_pb2.PullMessagesRequest, self._pull_messages),
            "push-messages": (fleet_pb2.PushMessagesRequest, self._push_messages),
        }
        route = routes.get(scope["path"].removeprefix("/v1/fleet/"))
        if route is None or scope["method"] != "POST":
            return await answer(send, 404)
        node_id = self._nodes.authenticate(dict(scope["headers"]))
        if node_id is None:
            return await answer(send, 401)
        kind, handle = route
        try:
            request = kind.FromString(await read_body(receive))
            response = await handle(node_id, request, receive)
        except tuple(_STATUS) as error:
            return await answer(send, _STATUS[type(error)])
        return await answer(send, 200, response.SerializeToString(), PROTOBUF)

    async def _activate(self, node_id: int, _request: Any, _receive: Receive) -> Any:
        self._heard_of(node_id)
        await asyncio.to_thread(self._nodes.note_online, node_id, True)
        return fleet_pb2.ActivateNodeResponse(node_id=node_id)

    async def _deactivate(self, node_id: int, _request: Any, _receive: Receive) -> Any:
        self._silent_at_s.pop(node_id, None)
        if bell := self._bells.pop(node_id, None):
            bell.set()
        await asyncio.to_thread(self._nodes.note_online, node_id, False)
        return fleet_pb2.DeactivateNodeResponse()

    async def _pull_messages(self, node_id: int, request: Any, receive: Receive) -> Any:
        """Wait until there is a message for the node, up to HOLD_S; its newest pull is the one that counts."""
        _require(request.node.node_id == node_id)
        self._heard_of(node_id)
        held = set(request.message_ids)
        bell = asyncio.Event()
        if older := self._bells.get(node_id):
            older.set()
        self._bells[node_id] = bell
        hang_up = asyncio.ensure_future(receive())  # the body is read: all that can still come is the end
        until_s = time.monotonic() + HOLD_S
        try:
            while self._bells.get(node_id) is bell and not self._closing:
                bell.clear()
                if message := self._mail.next_for(node_id, held):
                    envelope = await asyncio.to_thread(message_to_proto, message)
                    return fleet_pb2.PullMessagesResponse(messages_list=[envelope])
                rung = asyncio.ensure_future(bell.wait())
                left_s = max(0.0, until_s - time.monotonic())
                await asyncio.wait({rung, hang_up}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                rung.cancel()
                if hang_up.done() or time.monotonic() >= until_s:
                    break
            if self._bells.get(node_id, bell) is not bell:
                raise _Replaced
            if hang_up.done():
                self._heard_of(node_id, OFFLINE_AFTER_HANG_UP_S)
                raise ConnectionAbortedError
            return fleet_pb2.PullMessagesResponse()
        finally:
            hang_up.cancel()
            if self._bells.get(node_id) is bell:
                del self._bells[node_id]

    async def _push_messages(self, node_id: int, request: Any, _receive: Receive) -> Any:
        """Take in one reply; result 0 when it was expected, 1 when it was not and the device can forget it."""
        _require(request.node.node_id == node_id and len(request.messages_list) == 1)
        envelope = request.messages_list[0]
        _require(envelope.metadata.src_node_id == node_id)
        try:
            reply = await asyncio.to_thread(message_from_proto, envelope)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Malformed("a reply that is no Flower message") from error
        if not (reply.has_content() or reply.has_error()):
            raise Malformed("a reply with nothing in it")
        if reply.has_content():
            self._tap("from_device", reply.content)
        expected = self._mail.answer(envelope.metadata.reply_to_message_id, node_id, reply)
        return fleet_pb2.PushMessagesResponse(results={envelope.metadata.message_id: 0 if expected else 1})


class NodeBook:
    """The nodes by key, in Flower's link state; a key once let in keeps its node id for ever."""

    def __init__(self, database: Path) -> None:
        self._database = database
        factory = LinkStateFactory(str(database), NoOpFederationManager(), ObjectStoreFactory())
        with self._readable(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how Flower calls its migrations
            self._link: Any = factory.state()
            nodes = self._link.get_node_info()
        self._lock = threading.Lock()
        self._by_key: dict[bytes, int] = {bytes(node.public_key): node.node_id for node in nodes}
        self._verified: dict[bytes, tuple[bytes, bytes]] = {}  # key -> timestamp and signature last found good

    def ids(self) -> frozenset[int]:
        return frozenset(self._by_key.values())

    def enroll(self, public_key: bytes, name: str) -> int:
        try:
            key = bytes_to_public_key(public_key)
            if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
                raise ValueError
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Malformed("a device's key has to be an elliptic-curve P-384 public key in PEM") from error
        canonical = public_key_to_bytes(key)
        with self._lock, self._readable():
            if canonical not in self._by_key:
                self._by_key[canonical] = self._link.create_node(
                    constant.NOOP_FLWR_AID, constant.NOOP_ACCOUNT_NAME, canonical, HOLD_S, name=name
                )
            return self._by_key[canonical]

    def note_online(self, node_id: int, online: bool) -> None:
        with self._lock, self._readable():
            if not online:
                self._link.deactivate_node(node_id)
            elif not self._link.activate_node(node_id, HOLD_S):
                self._link.acknowledge_node_heartbeat(node_id, HOLD_S)

    def authenticate(self, headers: Mapping[bytes, bytes]) -> int | None:
        """Flower's check: an enrolled key has signed a timestamp of the last minutes. The node's id, or None.

        A device signs once a minute, not once a request, and a signature found good is not checked again.
        """
        try:
            key = b64decode(headers[_KEY], validate=True)
            stamp, signature = headers[_STAMP], headers[_SIGNATURE]
            age_s = (now() - datetime.fromisoformat(stamp.decode())).total_seconds()
            node_id = self._by_key.get(key)
            slack_s = constant.SYSTEM_TIME_TOLERANCE
            if node_id is None or not -slack_s < age_s < constant.TIMESTAMP_TOLERANCE + slack_s:
                return None
            if self._verified.get(key) != (stamp, signature):
                public_key = bytes_to_public_key(key)
                if not verify_signature(public_key, stamp, b64decode(signature, validate=True)):
                    return None
                self._verified[key] = (stamp, signature)
        except (KeyError, ValueError, TypeError):
            return None
        return node_id

    def close(self) -> None:
        with self._lock:
            self._link._engine.dispose()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StateError(
                f"{self._database} cannot be used ({str(error).splitlines()[0][:120]}); free space on its disk, "
                "restore it from a backup, or move it away and enrol the devices again"
            ) from error


def _require(claim: bool) -> None:
    """What a device says of itself has to fit its key."""
    if not claim:
        raise PermissionError
