"""The doorbell: a device's request for messages is held until there is one; and with it, who is online."""

import asyncio
import time
from collections.abc import Callable, Iterable

from fog_aggregator.drivers.public_port import Receive

HOLD_S = 10.0  # how long a pull waits for a message before it is told that there is none
OFFLINE_AFTER_S = 2 * HOLD_S  # every pull is a sign of life
OFFLINE_AFTER_HANG_UP_S = 10.0  # a device whose held pull broke off has this long to come back


class Replaced(Exception):
    """A pull was held when the same key began another one."""


class HeldPulls:
    """All but `is_online` and `online` belong to the port's event loop. Nothing is saved."""

    def __init__(self) -> None:
        self._silent_at_s: dict[int, float] = {}  # node id -> when it counts as offline unless it is heard of again
        self._bells: dict[int, asyncio.Event] = {}  # node id -> wakes its held pull
        self.goodbyes: dict[int, int] = {}  # node id -> how many it has said
        self._closing = False

    def is_online(self, node_id: int) -> bool:
        return self._silent_at_s.get(node_id, 0.0) > time.monotonic()

    def online(self) -> frozenset[int]:
        return frozenset(node_id for node_id in list(self._silent_at_s) if self.is_online(node_id))

    def heard_of(self, node_id: int, silent_after_s: float = OFFLINE_AFTER_S) -> None:
        self._silent_at_s[node_id] = time.monotonic() + silent_after_s

    def gone(self, node_id: int) -> None:
        """It said goodbye: it is offline, and its held pull is let go."""
        self.goodbyes[node_id] = self.goodbyes.get(node_id, 0) + 1
        self._silent_at_s.pop(node_id, None)
        if bell := self._bells.pop(node_id, None):
            bell.set()

    def ring(self, node_ids: Iterable[int]) -> None:
        for node_id in node_ids:
            if bell := self._bells.get(node_id):
                bell.set()

    def close(self) -> None:
        self._closing = True
        self.ring(list(self._bells))

    async def hold(self, node_id: int, receive: Receive, is_due: Callable[[], bool]) -> None:
        """Wait until something is due, up to HOLD_S; a node's newest pull is the one that counts.

        Raises Replaced, or ConnectionAbortedError when the device hung up.
        """
        bell = asyncio.Event()
        if older := self._bells.get(node_id):
            older.set()
        self._bells[node_id] = bell
        hang_up = asyncio.ensure_future(receive())  # the body is read: all that can still come is the end
        until_s = time.monotonic() + HOLD_S
        try:
            while self._bells.get(node_id) is bell and not self._closing:
                bell.clear()
                if is_due():
                    return
                rung = asyncio.ensure_future(bell.wait())
                left_s = max(0.0, until_s - time.monotonic())
                await asyncio.wait({rung, hang_up}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                rung.cancel()
                if hang_up.done() or time.monotonic() >= until_s:
                    break
            if self._bells.get(node_id, bell) is not bell:
                raise Replaced
            if hang_up.done():
                self.heard_of(node_id, OFFLINE_AFTER_HANG_UP_S)
                raise ConnectionAbortedError
        finally:
            hang_up.cancel()
            if self._bells.get(node_id) is bell:
                del self._bells[node_id]
