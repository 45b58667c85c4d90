"""Messages to devices until their outcome is taken: who has them, under which ids Flower knows them, what came back."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from flwr.app import RecordDict

from fog_aggregator.ports import Reply

RECHECK_S = 1.0  # how often a waiting fog looks for devices that went offline
KEEP_S = 60.0  # how long an expired message can still be asked about
MAX_POSTINGS = 3


class Place(Enum):
    """Where a letter is: not with Flower yet (or no more), on its way there, there, with the device, or lost maybe."""

    HERE = auto()
    CLAIMED = auto()
    POSTED = auto()
    DELIVERED = auto()
    IN_DOUBT = auto()


@dataclass(slots=True, eq=False)
class Letter:
    """One message to one device. `flower_ids`: one per posting; `reply_ids`: of the replies that began to arrive."""

    id: str
    node_id: int
    kind: str
    content: RecordDict
    expires_at_s: float
    place: Place = Place.HERE
    postings: int = 0
    flower_ids: list[str] = field(default_factory=list)
    reply_ids: list[str] = field(default_factory=list)
    reply: Reply | None = None


class Letters:
    """Used by many threads. Saved nowhere: after a crash nobody waits for these answers any more."""

    def __init__(
        self,
        is_online: Callable[[int], bool],
        forget: Callable[[Letter], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`forget` is called with each letter that is over."""
        self._is_online = is_online
        self._forget = forget
        self._clock = clock
        self._letters: dict[str, Letter] = {}
        self._changed = threading.Condition(threading.RLock())
        self._closed = False

    def add(self, new: Mapping[str, tuple[int, RecordDict]], kind: str, ttl_s: float) -> None:
        """Letters by id, each with its node and content."""
        now_s = self._clock()
        with self._changed:
            for old in [letter for letter in self._letters.values() if letter.expires_at_s + KEEP_S < now_s]:
                self._end(old)
            for letter_id, (node_id, content) in new.items():
                self._letters[letter_id] = Letter(letter_id, node_id, kind, content, now_s + ttl_s)

    def claim(self, node_ids: Collection[int]) -> list[tuple[Letter, float]]:
        """What is to be posted to these nodes now, each given once, with the seconds it is valid for."""
        with self._changed:
            due = [each for each in self._letters.values() if each.node_id in node_ids and self._is_due(each)]
            for letter in due:
                letter.place, letter.postings = Place.CLAIMED, letter.postings + 1
            return [(letter, letter.expires_at_s - self._clock()) for letter in due]

    def waits_for(self, node_id: int) -> bool:
        """Whether there is something for this node to fetch."""
        with self._changed:
            return any(
                letter.node_id == node_id and (self._is_due(letter) or self._is_open(letter, Place.POSTED))
                for letter in self._letters.values()
            )

    def waits_here_for(self, node_id: int) -> bool:
        """Whether there is something to claim."""
        with self._changed:
            return any(letter.node_id == node_id and self._is_due(letter) for letter in self._letters.values())

    def name(self, letter: Letter, flower_id: str) -> None:
        """Flower will know it under this id."""
        with self._changed:
            letter.flower_ids.append(flower_id)

    def posted(self, letter: Letter, taken: bool) -> None:
        """Flower took it, or did not; the device may have it already."""
        with self._changed:
            if letter.place is Place.CLAIMED:
                letter.place = Place.POSTED if taken else Place.HERE

    def delivered(self, flower_id: str) -> None:
        with self._changed:
            if letter := self.find(flower_id):
                letter.place = Place.DELIVERED

    def doubt(self, node_id: int) -> None:
        """The device starts anew: it may have been killed with what was delivered to it."""
        with self._changed:
            for letter in self._letters.values():
                if letter.node_id == node_id and letter.place is Place.DELIVERED:
                    letter.place = Place.IN_DOUBT

    def settle(self, node_id: int, held: Collection[str]) -> None:
        """What was in doubt is with the device if it says that it holds it, and to be posted again otherwise."""
        with self._changed:
            for letter in self._letters.values():
                if letter.node_id == node_id and letter.place is Place.IN_DOUBT:
                    letter.place = Place.DELIVERED if set(letter.flower_ids) & set(held) else Place.HERE

    def recall(self) -> None:
        """Flower has forgotten all of them: whatever is unanswered has to be posted again."""
        with self._changed:
            for letter in self._letters.values():
                letter.place = Place.HERE

    def find(self, flower_id: str) -> Letter | None:
        """The unanswered letter that Flower knows under this id."""
        with self._changed:
            found = (letter for letter in self._letters.values() if flower_id in letter.flower_ids)
            return next((letter for letter in found if letter.reply is None), None)

    def answer(self, letter: Letter, content: RecordDict | None, reason: str | None) -> None:
        """Take in a reply, the first one only: content, or None and the device's words why there is none."""
        with self._changed:
            if letter.reply is None:
                letter.reply = Reply(
                    letter.id, letter.node_id, content, "" if content is not None else _one_line(reason)
                )
                self._changed.notify_all()

    def take(self, letter_ids: Collection[str], wait_s: float) -> list[Reply]:
        """The outcomes there are, each given once; waits up to `wait_s` for the first one."""
        deadline_s = self._clock() + wait_s
        with self._changed:
            while True:
                replies = [reply for letter_id in letter_ids if (reply := self._outcome(letter_id))]
                left_s = deadline_s - self._clock()
                if replies or left_s <= 0 or self._closed:
                    return replies
                self._changed.wait(min(left_s, RECHECK_S))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_open(self, letter: Letter, place: Place) -> bool:
        return letter.place is place and letter.reply is None and letter.expires_at_s > self._clock()

    def _is_due(self, letter: Letter) -> bool:
        return self._is_open(letter, Place.HERE) and letter.postings < MAX_POSTINGS

    def _end(self, letter: Letter) -> None:
        del self._letters[letter.id]
        self._forget(letter)

    def _outcome(self, letter_id: str) -> Reply | None:
        letter = self._letters.get(letter_id)
        if letter is None:
            return Reply(letter_id, 0, None, "the message is not known here; it expired, or the fog was restarted")
        outcome = letter.reply
        if outcome is None and letter.expires_at_s < self._clock():
            outcome = Reply(letter_id, letter.node_id, None, "no answer came in time")
        elif outcome is None and not self._is_online(letter.node_id):
            outcome = Reply(letter_id, letter.node_id, None, "the device is offline")
        if outcome is not None:
            self._end(letter)
        return outcome


def _one_line(reason: str | None) -> str:
    """A device's own words, fit to be logged."""
    return "".join(letter if letter.isprintable() else " " for letter in (reason or "")[:200]) or "refused"
