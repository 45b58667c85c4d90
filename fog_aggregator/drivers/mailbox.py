"""Messages on their way to devices and their replies on the way back: delivered at least once, answered once."""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from flwr.app import Message

from fog_aggregator.ports import Reply

RECHECK_S = 1.0  # how often a waiting fog looks for devices that went offline
KEEP_S = 60.0  # how long an expired message can still be asked about
MAX_DELIVERIES = 3


@dataclass(slots=True)
class _Letter:
    """One message to one device, until its outcome is taken."""

    message: Message
    node_id: int
    expires_at_s: float
    deliveries: int = 0
    reply: Message | None = None


class Mailbox:
    """Used by many threads. Saved nowhere: after a crash nobody waits for these answers any more."""

    def __init__(self, is_online: Callable[[int], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._is_online = is_online
        self._clock = clock
        self._letters: dict[str, _Letter] = {}
        self._changed = threading.Condition()
        self._closed = False

    def post(self, message_id: str, node_id: int, message: Message, ttl_s: float) -> None:
        now_s = self._clock()
        with self._changed:
            for old in [old for old, letter in self._letters.items() if letter.expires_at_s + KEEP_S < now_s]:
                del self._letters[old]
            self._letters[message_id] = _Letter(message, node_id, now_s + ttl_s)

    def next_for(self, node_id: int, held: Collection[str]) -> Message | None:
        """The oldest unanswered message for the device that it does not say it holds.

        A device that was killed holds nothing, so it is given its message again, a few times at most.
        """
        with self._changed:
            for message_id, letter in self._letters.items():
                if (
                    letter.node_id == node_id
                    and letter.reply is None
                    and message_id not in held
                    and letter.deliveries < MAX_DELIVERIES
                    and letter.expires_at_s > self._clock()
                ):
                    letter.deliveries += 1
                    return letter.message
        return None

    def answer(self, message_id: str, node_id: int, reply: Message) -> bool:
        """Take in a reply, the first one only; False when the message was never for this device, or is over."""
        with self._changed:
            letter = self._letters.get(message_id)
            if letter is None or letter.node_id != node_id or letter.expires_at_s < self._clock():
                return False
            if letter.reply is None:
                letter.reply = reply
                self._changed.notify_all()
            return True

    def take(self, message_ids: Collection[str], wait_s: float) -> list[Reply]:
        """The outcomes there are, each given once; waits up to `wait_s` for the first one."""
        deadline_s = self._clock() + wait_s
        with self._changed:
            while True:
                replies = [reply for message_id in message_ids if (reply := self._outcome(message_id))]
                left_s = deadline_s - self._clock()
                if replies or left_s <= 0 or self._closed:
                    return replies
                self._changed.wait(min(left_s, RECHECK_S))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _outcome(self, message_id: str) -> Reply | None:
        letter = self._letters.get(message_id)
        if letter is None:
            return Reply(message_id, 0, None, "the message is not known here; it expired, or the fog was restarted")
        reply = letter.reply
        if reply is not None and reply.has_content():
            outcome = Reply(message_id, letter.node_id, reply.content, "")
        elif reply is not None:
            outcome = Reply(message_id, letter.node_id, None, _one_line(reply.error.reason))
        elif letter.expires_at_s < self._clock():
            outcome = Reply(message_id, letter.node_id, None, "no answer came in time")
        elif not self._is_online(letter.node_id):
            outcome = Reply(message_id, letter.node_id, None, "the device is offline")
        else:
            return None
        del self._letters[message_id]
        return outcome


def _one_line(reason: str | None) -> str:
    """A device's own words, fit to be logged."""
    return "".join(letter if letter.isprintable() else " " for letter in (reason or "")[:200]) or "refused"
