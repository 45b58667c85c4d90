"""The device's line to its fog, Flower's Fleet API over TLS; in this tier only this file touches Flower's internals.

Unlike Flower's own SuperNode it answers a status query while it trains, waits in one held request instead of polling,
never ends the process, and outlives any number of fog restarts. Flower's own connection module is not used: it brings
a web server into the device's memory, and signals the process when the fog refuses it.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from edge_agent.drivers.fog_line import FogLine, NotLetIn, Rejected, pause_s
from edge_agent.session import REFUSED
from learning_core.errors import DewfallError, LinkDown
from protos.codec import MAX_BYTES
from protos.flower_records import TRAIN

log = logging.getLogger(__name__)

PULL_TIMEOUT_S = 30.0  # the fog holds a pull for about 10 s
HEARTBEAT_S = 30.0  # Flower gives a node up after two of these without a sign of life
KNOWN_OBJECTS, KNOWN_BYTES = 16, 2048  # how many objects are kept, and how large one of them is at most
OBJECT_WAIT_S = 10.0  # how long a message's objects may be on their way to the fog
_NOT_A_MESSAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


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
        self._beat_at_s = 0.0
        self._known: dict[str, bytes] = {}  # small objects by their hash: the fog's queries are alike
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
        self._say_goodbye()
        fetcher.join(timeout=2.0)
        self._line.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far."""
        return self._line.traffic()

    def _say_goodbye(self) -> None:
        """The fog then lets go of the held pull, so that stopping does not have to wait for it."""
        if self._node_id is None or self.trouble:
            return
        request = fleet_pb2.DeactivateNodeRequest(node_id=self._node_id)
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
        self._say_goodbye()  # again: the last pull may have overtaken the first one, which is then forgotten

    def _fetch_one(self) -> None:
        if self._node_id is None:
            hello = fleet_pb2.ActivateNodeRequest(public_key=self._line.public_key, heartbeat_interval=HEARTBEAT_S)
            self._node_id = self._line.call("activate-node", hello, fleet_pb2.ActivateNodeResponse).node_id
            self._beat_at_s = time.monotonic()
            self.trouble = ""
        if self._stop.is_set():
            return
        node = Node(node_id=self._node_id)
        began_s = time.monotonic()
        if began_s - self._beat_at_s > HEARTBEAT_S / 2:
            beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_S)
            self._line.call("send-node-heartbeat", beat, heartbeat_pb2.SendNodeHeartbeatResponse)
            self._beat_at_s = began_s
        request = fleet_pb2.PullMessagesRequest(node=node, message_ids=list(self._held))  # Flower ignores the ids
        response = self._line.call("pull-messages", request, fleet_pb2.PullMessagesResponse, PULL_TIMEOUT_S)
        if not response.messages_list and time.monotonic() - began_s < 1.0:
            self._stop.wait(1.0)  # this fog does not hold pulls, or is about to stop: do not ask without a break
        for envelope, tree in zip(response.messages_list, response.message_object_trees, strict=False):
            if tree.object_id not in self._held:
                self._take_in(node, envelope.metadata.run_id, tree)

    def _take_in(self, node: Any, run_id: int, tree: Any) -> None:
        """Fetch the objects of a message and queue it."""
        wanted = dict.fromkeys(branch.object_id for branch in iterate_object_tree(tree))
        contents: dict[str, bytes] = {}
        for object_id in wanted:
            contents[object_id] = self._object(node, run_id, object_id)
            if sum(map(len, contents.values())) > MAX_BYTES:
                raise Rejected("the fog sent more than a device takes")
        try:
            message = inflate_object_from_contents(tree.object_id, contents)
            is_training = message.metadata.message_type.split(".")[0] == TRAIN
            message.metadata.__dict__["_message_id"] = tree.object_id  # not part of the message whose hash it is
        except _NOT_A_MESSAGE as error:
            raise Rejected("the fog sent what is no Flower message") from error
        self._held.add(tree.object_id)
        (self._to_train if is_training else self._to_answer).put(message)
        received = message_pb2.ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=tree.object_id)
        self._line.call("confirm-message-received", received, message_pb2.ConfirmMessageReceivedResponse)

    def _object(self, node: Any, run_id: int, object_id: str) -> bytes:
        """One object, waiting with growing pauses while it is on its way to the fog. Raises Rejected, LinkDown."""
        if object_id in self._known:
            return self._known[object_id]
        request = message_pb2.PullObjectRequest(node=node, run_id=run_id, object_id=object_id)
        for pause in _pauses(OBJECT_WAIT_S):
            response = self._line.call("pull-object", request, message_pb2.PullObjectResponse)
            if not response.object_found:
                break
            if response.object_available:
                self._keep(object_id, response.object_content)
                return bytes(response.object_content)
            self._stop.wait(pause)
        raise Rejected("the fog announced a message and does not have it")

    def _keep(self, object_id: str, content: bytes) -> None:
        if len(content) <= KNOWN_BYTES:
            self._known[object_id] = content
        if len(self._known) > KNOWN_OBJECTS:
            del self._known[next(iter(self._known))]

    def _work(self, messages: "queue.SimpleQueue[Message | None]") -> None:
        while (message := messages.get()) is not None:
            began_s = time.monotonic()
            reply = self._answer(message)
            until_s = began_s + message.metadata.ttl
            try:
                self._deliver(reply, time.monotonic() - began_s, until_s)
            except Rejected as error:
                log.warning("a reply was dropped: %s", error)
            self._held.discard(message.metadata.message_id)

    def _answer(self, message: Message) -> Message:
        metadata = message.metadata
        context = Context(metadata.run_id, metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={})
        try:
            return self._within_limits(message, self._app(message, context))
        except Exception as error:
            log.exception("answering a %s message failed", metadata.message_type)
            reason = f"the device failed: {type(error).__name__}: {error}"
            return Message(Error(REFUSED, reason[:200]), reply_to=message)

    def _deliver(self, reply: Message, runtime_s: float, until_s: float) -> None:
        """Bring the reply to the fog, over outages, until the question has expired. Raises Rejected."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = {object_id: it.deflate() for object_id, it in get_all_nested_objects(reply).items()}
            tree = get_object_tree(reply)
        node, run_id = Node(node_id=reply.metadata.src_node_id), reply.metadata.run_id
        envelope = message_to_proto(remove_content_from_message(reply) if reply.has_content() else reply)
        request = fleet_pb2.PushMessagesRequest(
            node=node, messages_list=[envelope], message_object_trees=[tree], clientapp_runtime_list=[runtime_s]
        )
        failures = 0
        while not self._stop.is_set() and time.monotonic() < until_s:
            try:
                response = self._line.call("push-messages", request, fleet_pb2.PushMessagesResponse, PULL_TIMEOUT_S)
                for object_id in response.objects_to_push:
                    push = message_pb2.PushObjectRequest(
                        node=node,
                        run_id=run_id,
                        object_id=object_id,
                        object_content=objects[object_id],
                        session_id=response.session_id,
                    )
                    if not self._line.call("push-object", push, message_pb2.PushObjectResponse, PULL_TIMEOUT_S).stored:
                        raise LinkDown("the fog did not store a part of an answer")
                return
            except (LinkDown, NotLetIn):
                failures += 1
                self._stop.wait(pause_s(failures, random.random()))  # noqa: S311

    @staticmethod
    def _within_limits(message: Message, reply: Message) -> Message:
        """The reply, or an error in its place when it is larger than a fog takes."""
        size = sum(len(it.deflate()) for it in get_all_nested_objects(reply).values())
        if size <= MAX_BYTES:
            return reply
        reason = f"the answer takes {size} bytes, more than the {MAX_BYTES} a fog takes"
        return Message(Error(REFUSED, reason), reply_to=message)


def _pauses(limit_s: float) -> Iterator[float]:
    """Growing pauses in seconds, of so many together."""
    pause = 0.02
    while limit_s > 0:
        yield pause
        limit_s -= pause
        pause = min(2 * pause, 1.0)
