"""The device's line to its fog, Flower's Fleet API over TLS; in this tier only this file touches Flower's internals.

Unlike Flower's own SuperNode it answers a status query while it trains, waits in one held request instead of polling,
never ends the process, and outlives any number of fog restarts. Flower's own connection module is not used: it brings
a web server into the device's memory, and signals the process when the fog refuses it.
"""

import logging
import queue
import random
import ssl
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2
from flwr.proto.node_pb2 import Node
from google.protobuf.message import DecodeError

from edge_agent.session import REFUSED
from learning_core.errors import ConfigError, DewfallError, LinkDown
from protos.codec import MAX_BYTES
from protos.flower_records import TRAIN

log = logging.getLogger(__name__)

PULL_TIMEOUT_S = 30.0  # the fog holds a pull for about 10 s
SIGN_EVERY = timedelta(seconds=60)  # Flower accepts a signed timestamp for five minutes
QUICK_FAILURES = 60  # after about a minute of failures the link slows down, to spare the battery


class NotLetIn(DewfallError):
    """The fog does not know this device's key."""


class Rejected(DewfallError):
    """The fog will not take this request, however often it is sent."""


def pause_s(failures: int, spread: float) -> float:
    """Seconds before the next try after `failures` in a row; `spread` (0..1) keeps devices from coming all at once."""
    longest = 1.0 if failures <= QUICK_FAILURES else 15.0
    return min(longest, 0.1 * 2.0 ** min(failures - 1, 10)) * (0.75 + 0.5 * spread)


class FogLine:
    """Signed Fleet API calls over kept connections. Used by several threads; nothing is saved."""

    def __init__(
        self,
        address: str,
        ca: Path,
        private_key: ec.EllipticCurvePrivateKey,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        try:
            trust = ssl.create_default_context(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{ca} is not a certificate ({error}); name the fog's CA certificate") from error
        try:
            self._http = httpx.Client(
                base_url=f"https://{address}/v1/fleet/",
                verify=trust,
                limits=httpx.Limits(max_connections=8, keepalive_expiry=60.0),
                headers={"accept-encoding": "identity"},
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise ConfigError(f"{address!r} is not an address; write the fog's as host:port") from error
        self._key = private_key
        self._clock = clock
        self.public_key = private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._lock = threading.Lock()  # guards what follows
        self._sent = self._received = 0
        self._signed_at = datetime.min.replace(tzinfo=UTC)
        self._signed: dict[str, str] = {}
        self._clock_lag = timedelta(0)

    def call(self, path: str, request: Any, kind: type[Any], timeout_s: float = 10.0) -> Any:
        """One request and its protobuf answer. Raises LinkDown, NotLetIn, Rejected."""
        body = request.SerializeToString()
        try:
            with self._http.stream("POST", path, content=body, headers=self.signature(), timeout=timeout_s) as response:
                content = _read(response)
        except (httpx.RequestError, OSError, RuntimeError) as error:
            raise LinkDown(f"the fog cannot be reached ({error})") from error
        with self._lock:
            self._sent += len(body) + _size(response.request.headers)
            self._received += len(content) + _size(response.headers)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._set_clock(response.headers.get("date", ""))
            raise NotLetIn("the fog does not know this device's key; enrol it with a token")
        if response.is_server_error:
            raise LinkDown(f"the fog answered with an error ({response.status_code})")
        if response.status_code == httpx.codes.CONFLICT:
            raise Rejected("another process talks to the fog with this device's key; stop one of the two")
        if response.is_error:
            raise Rejected(f"the fog refused a request ({response.status_code})")
        try:
            return kind.FromString(content)
        except DecodeError as error:
            raise LinkDown("what answers at the fog's address is not a fog") from error

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received, heads and bodies, without TLS."""
        with self._lock:
            return self._sent, self._received

    def close(self) -> None:
        self._http.close()

    def signature(self) -> dict[str, str]:
        """Headers that prove the key: Flower's signed timestamp."""
        with self._lock:
            now = self._clock() + self._clock_lag
            if not timedelta(0) <= now - self._signed_at < SIGN_EVERY:
                stamp = now.isoformat()
                signature = self._key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
                self._signed_at = now
                self._signed = {
                    "content-type": "application/protobuf",
                    "flwr-public-key": b64encode(self.public_key).decode(),
                    "flwr-timestamp": stamp,
                    "flwr-signature": b64encode(signature).decode(),
                }
            return self._signed

    def _set_clock(self, date: str) -> None:
        """A device without a clock of its own is refused for its timestamps; the fog's answer says what time it is."""
        try:
            lag = parsedate_to_datetime(date) - self._clock()
        except (ValueError, TypeError):
            return
        with self._lock:
            self._clock_lag = lag if abs(lag) > timedelta(seconds=2) else timedelta(0)
            self._signed_at = datetime.min.replace(tzinfo=UTC)


class FleetLink:
    """Fetches the fog's messages, has the ClientApp answer them, and brings the replies back. Nothing is saved."""

    def __init__(
        self, address: str, ca: Path, private_key: ec.EllipticCurvePrivateKey, app: ClientApp, workers: int = 2
    ) -> None:
        """One worker trains, the others answer everything else. Raises ConfigError when `ca` is no certificate."""
        self._line = FogLine(address, ca, private_key)
        self._app = app
        self._workers = max(2, workers)
        self._to_train: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._to_answer: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._held: set[str] = set()  # ids of messages that are fetched and not answered yet
        self._node_id: int | None = None
        self._stop = threading.Event()
        self.trouble = "not connected yet"  # one sentence; empty while the line is up

    def run(self, stop: threading.Event) -> None:
        """Talk to the fog until `stop` is set; training that still runs then is left behind in its thread."""
        self._stop = stop
        inboxes = [self._to_train] + [self._to_answer] * (self._workers - 1)
        fetcher = threading.Thread(target=self._fetch, name="fleet-fetch", daemon=True)
        fetcher.start()
        for inbox in inboxes:
            threading.Thread(target=self._work, args=(inbox,), name="fleet-work", daemon=True).start()
        stop.wait()
        for inbox in inboxes:
            inbox.put(None)
        if self._node_id is not None and not self.trouble:
            self._say_goodbye(self._node_id)
        fetcher.join(timeout=1.0)
        self._line.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far."""
        return self._line.traffic()

    def _say_goodbye(self, node_id: int) -> None:
        """The fog then lets go of the held pull, so that stopping does not have to wait for it."""
        request = fleet_pb2.DeactivateNodeRequest(node_id=node_id)
        try:
            self._line.call("deactivate-node", request, fleet_pb2.DeactivateNodeResponse, timeout_s=1.0)
        except DewfallError as error:
            log.info("the fog was not told that this device leaves: %s", error)

    def _fetch(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self._fetch_one()
                failures = 0
            except DewfallError as error:
                failures += 1
                if str(error) != self.trouble:
                    log.warning("%s", error)
                self.trouble = str(error)
                self._node_id = None  # say hello again: a held pull would tell only much later that the line is up
                self._stop.wait(pause_s(failures, random.random()))  # noqa: S311

    def _fetch_one(self) -> None:
        if self._node_id is None:
            hello = fleet_pb2.ActivateNodeRequest(public_key=self._line.public_key, heartbeat_interval=10.0)
            self._node_id = self._line.call("activate-node", hello, fleet_pb2.ActivateNodeResponse).node_id
            self.trouble = ""
        request = fleet_pb2.PullMessagesRequest(node=Node(node_id=self._node_id), message_ids=list(self._held))
        began_s = time.monotonic()
        response = self._line.call("pull-messages", request, fleet_pb2.PullMessagesResponse, PULL_TIMEOUT_S)
        if not response.messages_list and time.monotonic() - began_s < 1.0:
            self._stop.wait(1.0)  # this fog does not hold pulls, or is about to stop: do not ask without a break
        for envelope in response.messages_list:
            try:
                message = message_from_proto(envelope)
            except (TypeError, ValueError, KeyError) as error:
                raise Rejected("the fog sent what is no Flower message") from error
            if message.metadata.message_id not in self._held:
                self._held.add(message.metadata.message_id)
                is_training = message.metadata.message_type.split(".")[0] == TRAIN
                (self._to_train if is_training else self._to_answer).put(message)

    def _work(self, messages: "queue.SimpleQueue[Message | None]") -> None:
        while (message := messages.get()) is not None:
            until_s = time.monotonic() + message.metadata.ttl
            self._deliver(message, self._answer(message), until_s)
            self._held.discard(message.metadata.message_id)

    def _answer(self, message: Message) -> Message:
        metadata = message.metadata
        context = Context(metadata.run_id, metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={})
        try:
            return self._app(message, context)
        except Exception as error:
            log.exception("answering a %s message failed", metadata.message_type)
            reason = f"the device failed: {type(error).__name__}: {error}"
            return Message(Error(REFUSED, reason[:200]), reply_to=message)

    def _deliver(self, message: Message, reply: Message, until_s: float) -> None:
        """Bring the reply to the fog, over outages and restarts, until the question has expired."""
        envelope = message_to_proto(reply)
        envelope.metadata.message_id = uuid.uuid4().hex
        node = Node(node_id=reply.metadata.src_node_id)
        request = fleet_pb2.PushMessagesRequest(node=node, messages_list=[envelope])
        failures = 0
        while not self._stop.is_set() and time.monotonic() < until_s:
            try:
                response = self._line.call("push-messages", request, fleet_pb2.PushMessagesResponse, PULL_TIMEOUT_S)
                if any(response.results.values()):
                    log.info("the fog no longer waits for an answer; it was restarted, or the answer came late")
                return
            except Rejected as error:
                log.warning("a reply was dropped: %s", error)
                if reply.has_content():
                    self._deliver(message, Message(Error(REFUSED, str(error)), reply_to=message), until_s)
                return
            except (LinkDown, NotLetIn):
                failures += 1
                self._stop.wait(pause_s(failures, random.random()))  # noqa: S311


def _read(response: httpx.Response) -> bytes:
    """The body, as long as it is no longer than a fog's may be. Raises LinkDown."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > MAX_BYTES:
            raise LinkDown("what answers at the fog's address sends more than a fog would")
    return bytes(body)


def _size(headers: httpx.Headers) -> int:
    return 20 + sum(len(name) + len(value) + 4 for name, value in headers.raw)
