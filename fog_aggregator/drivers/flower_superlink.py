"""A Flower SuperLink inside the fog's own process; the only file of this tier that touches Flower's private modules.

Flower's: the Fleet API and its check of keys, runs, messages and their objects, and the Grid on which rounds run.
Ours: the gate in front of it, and the letters, which are delivered again to a device that was killed. Flower's
Control and Runtime APIs are served nowhere, only called in this process: nobody else can start a run or let in a key.
"""

import hashlib
import logging
import threading
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI, Request
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common import constant
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.date import now
from flwr.supercore.error import http_error_translator
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware, get_protobuf_request
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import HttpGrid
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.superlink.servicer.runtime import runtime_handlers
from google.protobuf.message import DecodeError
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from fog_aggregator.drivers.fleet_gate import FleetGate, FlowerSide
from fog_aggregator.drivers.held_pulls import HeldPulls
from fog_aggregator.drivers.letters import Letter, Letters
from fog_aggregator.drivers.public_port import AsgiApp, PublicPort
from fog_aggregator.ports import Reply
from learning_core.errors import Malformed, StateError

HEARTBEAT_S = 30.0  # Flower's own; who is online is decided by the held pulls
_REQUESTS: Mapping[str, type[Any]] = {  # what devices may call; they register with a token, on the fog's own routes
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "push-object": message_pb2.PushObjectRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}
_ANSWERS = {"pull-messages": fleet_pb2.PullMessagesResponse, "push-messages": fleet_pb2.PushMessagesResponse}
_ANSWERS |= {"push-object": message_pb2.PushObjectResponse}
_NOT_A_MESSAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, DecodeError)


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
        logging.getLogger("flwr").setLevel(logging.CRITICAL)  # a line for each request it refuses, from anybody
        self._nodes = NodeBook(state / "flower.db")
        self._tap = tap
        self._held = HeldPulls()
        self._letters = Letters(self._held.is_online, self._forget)
        self._posting = threading.Lock()  # guards the run
        self._run = _Run(self._nodes.state)
        api, link_state = _fleet_api(self._nodes.factory), self._nodes.state
        proof = (FLEET_HTTP_PUBLIC_KEY_HEADER, constant.TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
        flower = FlowerSide(api, _REQUESTS, _ANSWERS, proof, link_state, lambda: self._run.id, HEARTBEAT_S)
        gate = FleetGate(flower, self._held, self._letters, self._post, self._collect)
        apps: dict[str, AsgiApp] = {"/v1/fleet/": gate, "/v1/dewfall/": routes}
        try:
            self._port = PublicPort(host, port, certificate, private_key, apps)
        except BaseException:
            self._run.close()
            self._nodes.close()
            raise
        self.port = self._port.port

    def enroll(self, public_key: bytes, name: str) -> int:
        return self._nodes.enroll(public_key, name)

    def online(self) -> frozenset[int]:
        return self._held.online()

    def push(self, kind: str, payloads: Mapping[int, RecordDict], ttl_s: float) -> dict[str, int]:
        sent = {uuid.uuid4().hex: node_id for node_id in payloads if node_id in self._nodes.state.nodes}
        for node_id in sent.values():
            self._tap("to_device", payloads[node_id])
        self._letters.add({letter_id: (node, payloads[node]) for letter_id, node in sent.items()}, kind, ttl_s)
        self._post(self.online().intersection(sent.values()))
        self._port.call_soon(lambda: self._held.ring(sent.values()))
        return sent

    def pull(self, message_ids: Collection[str], wait_s: float) -> list[Reply]:
        return self._letters.take(message_ids, wait_s)

    def traffic(self) -> tuple[int, int]:
        return self._port.traffic()

    def close(self) -> None:
        self._letters.close()
        self._port.call_soon(self._held.close)
        self._port.close()
        self._run.close()
        self._nodes.close()

    def _post(self, node_ids: Collection[int]) -> None:
        """Give Flower what is to go to these nodes; a run that has ended (the machine slept) is followed by another."""
        with self._posting:
            if not self._run.is_alive():
                self._run.close()
                self._run = _Run(self._nodes.state)
                self._letters.recall()
            if not (due := self._letters.claim(node_ids)):
                return
            messages = [self._run.message(letter, left_s) for letter, left_s in due]
            with no_object_id_recompute():
                for (letter, _), message in zip(due, messages, strict=True):
                    self._letters.name(letter, message.object_id)  # before a device can answer to it
            taken = list(self._run.grid.push_messages(messages))
            for (letter, _), flower_id in zip(due, taken, strict=True):
                self._letters.posted(letter, bool(flower_id))

    def _collect(self, letter: Letter, flower_id: str) -> None:
        """Take a reply that has arrived out of Flower's hands; its contents are the device's, anything can be odd."""
        self._nodes.state.acknowledge_node_heartbeat(letter.node_id, HEARTBEAT_S)  # or Flower drops what it brought
        try:
            if not (found := list(self._run.grid.pull_messages([flower_id]))):
                return  # Flower did not accept it
            content, reason = (found[0].content, "") if found[0].has_content() else (None, found[0].error.reason)
        except _NOT_A_MESSAGE:
            content, reason = None, "the device sent what is no Flower message"
        if content is not None:
            self._tap("from_device", content)
        self._letters.answer(letter, content, reason)

    def _forget(self, letter: Letter) -> None:
        """Free what Flower still has of a letter that is over."""
        self._nodes.state.delete_messages(set(letter.flower_ids))
        for object_id in (*letter.flower_ids, *letter.reply_ids):
            self._nodes.state.object_store.delete(object_id)


class _Run:
    """Flower's run of this process: a task that is kept alive, and the Grid of its messages. Nothing is saved."""

    def __init__(self, state: Any) -> None:
        self._state = state
        fab = b"devices of Dewfall run no code that a fog sends"
        fab_hash = state.store_fab(Fab(hashlib.sha256(fab).hexdigest(), fab, {}))
        whose = (NOOP_FEDERATION_ID, None, constant.NOOP_FLWR_AID)
        self.id: int = state.create_run("dewfall/fog", "1", fab_hash, {}, *whose, TaskType.SERVER_APP)
        (run,) = state.get_run_info(run_ids=[self.id])
        token = state.claim_task(run.primary_task_id)
        state.activate_task(run.primary_task_id)
        self._task = state.get_task_by_token(token)
        self.grid = HttpGrid(token=token)
        self.grid._client = _Runtime(state, self._task)
        self.grid.set_run(run)
        self._heartbeat = HeartbeatSender(self.is_alive)
        self._heartbeat.start()

    def is_alive(self) -> bool:
        return bool(self._state.acknowledge_task_heartbeat(self._task.task_id))

    def message(self, letter: Letter, ttl_s: float) -> Message:
        way = (constant.SUPERLINK_NODE_ID, letter.node_id)
        metadata = Metadata(self.id, "", *way, "", "", now().timestamp(), ttl_s, letter.kind)
        return make_message(metadata=metadata, content=letter.content)

    def close(self) -> None:
        self._heartbeat.stop()


class _Runtime:
    """The client of Flower's Runtime API that its Grid uses, without a wire: the requests go to the API's handlers."""

    def __init__(self, state: Any, task: Any) -> None:
        about = {"state": state, "task": task}
        self.PushMessages = partial(runtime_handlers.push_messages, **about)
        self.PullMessages = partial(runtime_handlers.pull_messages, **about)
        self.PushObject = partial(runtime_handlers.push_object, **about)
        self.PullObject = partial(runtime_handlers.pull_object, **about)
        self.ConfirmMessageReceived = partial(runtime_handlers.confirm_message_received, **about)


class NodeBook:
    """The nodes by key, in Flower's link state in SQLite; a key once let in keeps its node id for ever.

    Runs and messages are in `state`, Flower's link state in memory: an object takes it a hundredth of the time, and
    no device's update is ever on the fog's disk.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        with self._readable(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of how Flower calls its migrations
            self._saved: Any = LinkStateFactory(str(database), NoOpFederationManager(), ObjectStoreFactory()).state()
            nodes = self._saved.get_node_info()
        self._lock = threading.Lock()
        self.factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
        self.state: Any = self.factory.state()
        for node in nodes:
            self._know(node)

    def enroll(self, public_key: bytes, name: str) -> int:
        """See `Fleet`. Raises Malformed when this is no P-384 public key in PEM."""
        try:
            key = bytes_to_public_key(public_key)
            if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
                raise ValueError
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Malformed("a device's key has to be an elliptic-curve P-384 public key in PEM") from error
        canonical = public_key_to_bytes(key)
        owner = (constant.NOOP_FLWR_AID, constant.NOOP_ACCOUNT_NAME)
        with self._lock, self._readable():
            node_id: int | None = self.state.get_node_id_by_public_key(canonical)
            if node_id is None:
                node_id = int(self._saved.create_node(*owner, canonical, HEARTBEAT_S, name=name))
                self._know(*self._saved.get_node_info(node_ids=[node_id]))
            return node_id

    def close(self) -> None:
        with self._lock:
            self._saved._engine.dispose()

    def _know(self, node: Any) -> None:
        """Put a saved node into the state in memory, which has no call for that: it draws ids of its own."""
        with self.state.lock:
            self.state.nodes[node.node_id] = node
            self.state.node_public_key_to_node_id[bytes(node.public_key)] = node.node_id
            self.state.owner_to_node_ids.setdefault(node.owner_aid, set()).add(node.node_id)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StateError(
                f"{self._database} cannot be used ({str(error).splitlines()[0][:120]}); free space on its disk, "
                "restore it from a backup, or move it away and enrol the devices again"
            ) from error


def _fleet_api(factory: LinkStateFactory) -> FastAPI:
    """What Flower's own SuperLink app serves under /v1/fleet/, and none of the rest of it."""

    async def linkstate() -> Any:  # for this one and the next Flower takes a thread, in each request
        return factory.state()

    async def protobuf_request(request: Request) -> Any:
        return get_protobuf_request(request)

    errors = Middleware(BaseHTTPMiddleware, dispatch=http_error_translator)
    layers = [errors, Middleware(ProtobufTranslationMiddleware), Middleware(NodeAuthMiddleware)]
    app = FastAPI(openapi_url=None, middleware=layers)
    app.include_router(fleet_router)
    app.dependency_overrides = {get_linkstate: linkstate, get_protobuf_request: protobuf_request}
    app.state.linkstate_factory = factory
    app.state.enable_supernode_auth = True
    return app
