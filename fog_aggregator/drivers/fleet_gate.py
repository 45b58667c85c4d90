"""What stands before Flower's Fleet API: the doorbell, and the view of which messages reach which devices.

Flower checks the key of every request and answers it; here a request is held, tried again, or not let through.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from fog_aggregator.drivers.held_pulls import HeldPulls, Replaced
from fog_aggregator.drivers.letters import Letter, Letters
from fog_aggregator.drivers.public_port import AsgiApp, Receive, Scope, Send, answer, ask, read_body
from protos.codec import MAX_BYTES

PROTOBUF = b"application/protobuf"


@dataclass(frozen=True, slots=True)
class FlowerSide:
    """Flower, as far as the gate knows it: its Fleet API with the protobuf messages of each call, and its link state.

    `proof_headers`: by which a device proves its key; `run_id`: of the run there is now.
    """

    app: AsgiApp
    requests: Mapping[str, type[Any]]
    answers: Mapping[str, type[Any]]
    proof_headers: Collection[str]
    state: Any
    run_id: Callable[[], int]
    heartbeat_s: float


@dataclass(slots=True)
class _Arrival:
    """A reply on its way in: the objects of it that are still to come, and how many bytes they may take."""

    letter: Letter
    flower_id: str
    missing: set[str]
    bytes_left: int = MAX_BYTES


@dataclass(frozen=True, slots=True)
class _Call:
    """A device's request, read."""

    scope: Scope
    receive: Receive
    body: bytes
    request: Any


class FleetGate:
    """An ASGI app for /v1/fleet/*; all of it runs in the port's event loop. Nothing is saved."""

    def __init__(
        self,
        flower: FlowerSide,
        held: HeldPulls,
        letters: Letters,
        post: Callable[[Collection[int]], None],
        collect: Callable[[Letter, str], None],
    ) -> None:
        """`post` gives Flower what is to go to some nodes, `collect` takes a reply from it; both in other threads."""
        self._flower = flower
        self._held = held
        self._letters = letters
        self._post = post
        self._collect = collect
        self._proof_headers = [name.encode() for name in flower.proof_headers]
        self._proofs: dict[int, list[bytes | None]] = {}  # node id -> what it last proved its key with
        self._arrivals: dict[str, _Arrival] = {}  # by push session
        self._collecting: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI."""
        route = scope["path"].removeprefix("/v1/fleet/")
        if route not in self._flower.requests or scope["method"] != "POST":
            return await answer(send, 404)
        ours = {
            "activate-node": self._activate,
            "deactivate-node": self._deactivate,
            "pull-messages": self._pull_messages,
            "push-messages": self._push_messages,
            "push-object": self._push_object,
        }
        body, run_id = await read_body(receive), self._flower.run_id()
        try:
            call = _Call(scope, receive, body, self._flower.requests[route].FromString(body))
            if getattr(call.request, "run_id", run_id) != run_id:
                return await answer(send, 403)  # of a fog's life before this one
            status, content = await ours.get(route, self._forward)(call)
        except DecodeError:
            return await answer(send, 400)
        except Replaced:
            return await answer(send, 409)
        return await answer(send, status, content, PROTOBUF)

    async def _forward(self, call: _Call) -> tuple[int, bytes]:
        return await ask(self._flower.app, call.scope, call.body)

    def _response(self, route: str, content: bytes) -> Any:
        return self._flower.answers[route].FromString(content)

    async def _activate(self, call: _Call) -> tuple[int, bytes]:
        state = self._flower.state
        status, content = await self._forward(call)
        node_id = state.get_node_id_by_public_key(call.request.public_key)
        if status == 412 and node_id is not None:  # the key is good, but Flower believes that the node is still there
            state.deactivate_node(node_id)
            status, content = await self._forward(call)
        if status == 200 and node_id is not None:
            self._held.heard_of(node_id)
            self._letters.doubt(node_id)
        return status, content

    async def _deactivate(self, call: _Call) -> tuple[int, bytes]:
        status, content = await self._forward(call)
        if status in (200, 412):
            self._held.gone(call.request.node_id)
        return status, content

    async def _pull_messages(self, call: _Call) -> tuple[int, bytes]:
        """Hold a device that has proved its key lately; ask Flower first about any other."""
        node_id, headers = call.request.node.node_id, dict(call.scope["headers"])
        proof, goodbyes = [headers.get(name) for name in self._proof_headers], self._held.goodbyes.get(node_id)
        if self._proofs.get(node_id) != proof:
            status, content = await self._forward(call)
            if status != 200 or self._note_delivery(content) or self._held.goodbyes.get(node_id) != goodbyes:
                return status, content
            self._proofs[node_id] = proof
        self._held.heard_of(node_id)
        self._flower.state.acknowledge_node_heartbeat(node_id, self._flower.heartbeat_s)
        self._letters.settle(node_id, call.request.message_ids)
        await self._held.hold(node_id, call.receive, lambda: self._letters.waits_for(node_id))
        if self._letters.waits_here_for(node_id):
            await asyncio.to_thread(self._post, [node_id])
        status, content = await self._forward(call)
        self._note_delivery(content if status == 200 else b"")
        return status, content

    def _note_delivery(self, content: bytes) -> bool:
        messages = self._response("pull-messages", content).messages_list
        for message in messages:
            self._letters.delivered(message.metadata.message_id)
        return bool(messages)

    async def _push_messages(self, call: _Call) -> tuple[int, bytes]:
        """A reply begins to arrive. Flower would take it from any of its nodes, the fog only from the one it asked."""
        for message in call.request.messages_list[:1]:
            flower_id = message.metadata.reply_to_message_id
            letter = self._letters.find(flower_id)
            source = {call.request.node.node_id, message.metadata.src_node_id}
            if letter is None or source != {letter.node_id}:
                return 403, b""
            status, content = await self._forward(call)
            if status == 200:
                response = self._response("push-messages", content)
                letter.reply_ids.append(message.metadata.message_id)
                self._arrivals = {key: it for key, it in self._arrivals.items() if it.letter.reply is None}
                arrival = _Arrival(letter, flower_id, set(response.objects_to_push))
                self._arrivals[response.session_id] = arrival
                self._collect_if_whole(arrival)
            return status, content
        return 400, b""

    async def _push_object(self, call: _Call) -> tuple[int, bytes]:
        arrival = self._arrivals.get(call.request.session_id)
        if arrival is None or call.request.object_id not in arrival.missing:
            return await self._forward(call)
        arrival.bytes_left -= len(call.body)
        if arrival.bytes_left < 0:
            return 413, b""
        status, content = await self._forward(call)
        if status == 200 and self._response("push-object", content).stored:
            arrival.missing.discard(call.request.object_id)
            self._collect_if_whole(arrival)
        return status, content

    def _collect_if_whole(self, arrival: _Arrival) -> None:
        if not arrival.missing:
            task = asyncio.create_task(asyncio.to_thread(self._collect, arrival.letter, arrival.flower_id))
            self._collecting.add(task)
            task.add_done_callback(self._collecting.discard)
