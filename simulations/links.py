"""A fog's devices without sockets and without waiting: the Fleet port on a virtual clock."""

import hashlib
import heapq
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from flwr.app import RecordDict

from edge_agent.session import Device
from fog_aggregator.ports import Reply
from learning_core.errors import Malformed
from protos.flower_records import (
    QUERY_STATUS,
    decode_status_query,
    decode_train_request,
    encode_device_status,
    encode_train_reply,
)

Answer = Callable[[str, RecordDict], RecordDict]  # raises Malformed for what it cannot read


class VirtualClock:
    """Time that passes only when somebody waits; what was put in the diary happens on the way. Nothing is saved."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._woken = False
        self._order = itertools.count()
        self._diary: list[tuple[float, int, Callable[[], None]]] = []

    def now_s(self) -> float:
        return self._now_s

    def at(self, time_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._diary, (time_s, next(self._order), happen))

    def wait(self, seconds: float) -> None:
        """Let `seconds` pass, or fewer if something on the way calls `wake`."""
        until_s, self._woken = self._now_s + seconds, False
        while self._diary and self._diary[0][0] <= until_s and not self._woken:
            time_s, _, happen = heapq.heappop(self._diary)
            self._now_s = max(self._now_s, time_s)
            happen()
        if not self._woken:
            self._now_s = until_s

    def wake(self) -> None:
        """Something happened that whoever waits wants to know."""
        self._woken = True


@dataclass(slots=True)
class SimulatedLink:
    """How one device is reached. `delays_s`: seconds to an answer by kind of message; silent when offline."""

    answer: Answer
    delays_s: Mapping[str, float]
    online: bool = True


@dataclass(frozen=True, slots=True)
class _Letter:
    node_id: int
    kind: str
    content: RecordDict
    due_s: float
    expires_s: float


class SimulatedFleet:
    """Devices join by their key; messages are answered when the clock comes to their time. Nothing is saved."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._links: dict[int, SimulatedLink] = {}
        self._letters: dict[str, _Letter] = {}
        self._numbers = itertools.count()
        self.sent: list[tuple[float, str, int]] = []  # time, kind, node id of every message

    def enroll(self, public_key: bytes, name: str) -> int:  # noqa: ARG002
        return int.from_bytes(hashlib.sha256(public_key).digest()[:8], "big")

    def join(self, public_key: bytes, link: SimulatedLink) -> int:
        node_id = self.enroll(public_key, "")
        self._links[node_id] = link
        return node_id

    def online(self) -> frozenset[int]:
        return frozenset(node_id for node_id, link in self._links.items() if link.online)

    def push(self, kind: str, payloads: Mapping[int, RecordDict], ttl_s: float) -> dict[str, int]:
        now_s, taken = self._clock.now_s(), {}
        for node_id, content in payloads.items():
            if (link := self._links.get(node_id)) is not None:
                message_id = f"message-{next(self._numbers)}"
                due_s = now_s + link.delays_s.get(kind, 0.0)
                self._letters[message_id] = _Letter(node_id, kind, content, due_s, now_s + ttl_s)
                self.sent.append((now_s, kind, node_id))
                taken[message_id] = node_id
        return taken

    def pull(self, message_ids: Collection[str], wait_s: float) -> list[Reply]:
        until_s = self._clock.now_s() + wait_s
        while True:
            replies = [reply for message_id in message_ids if (reply := self._take(message_id))]
            left_s = until_s - self._clock.now_s()
            if replies or left_s <= 0:
                return replies
            due = [self._letters[each].due_s - self._clock.now_s() for each in message_ids if each in self._letters]
            self._clock.wait(min([left_s, *(each for each in due if each > 0)]))

    def traffic(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        self._letters.clear()

    def _take(self, message_id: str) -> Reply | None:
        letter = self._letters.get(message_id)
        if letter is None:
            return Reply(message_id, 0, None, "the message is not known here")
        now_s, link = self._clock.now_s(), self._links[letter.node_id]
        if not link.online:
            reply = Reply(message_id, letter.node_id, None, "the device is offline")
        elif letter.due_s <= now_s:
            reply = _replied(message_id, letter, link)
        elif letter.expires_s < now_s:
            reply = Reply(message_id, letter.node_id, None, "no answer came in time")
        else:
            return None
        del self._letters[message_id]
        return reply


def answers_of(device: Device) -> Answer:
    """A device's side of the conversation, on records, as its ClientApp would have it."""

    def answer(kind: str, content: RecordDict) -> RecordDict:
        if kind == QUERY_STATUS:
            return encode_device_status(device.status(decode_status_query(content)))
        return encode_train_reply(device.train(decode_train_request(content, device.adapter_shapes())))

    return answer


def _replied(message_id: str, letter: _Letter, link: SimulatedLink) -> Reply:
    try:
        return Reply(message_id, letter.node_id, link.answer(letter.kind, letter.content), "")
    except Malformed as error:
        return Reply(message_id, letter.node_id, None, str(error))
