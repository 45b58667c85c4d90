"""Slots and what is banned, in the device's database: each transition and its bans in one transaction."""

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

from edge_agent.drivers.sqlite_store import Database, put_fact
from edge_agent.slots import RELEASE, Slots, decode_slots, encode_slots
from learning_core.errors import Malformed

log = logging.getLogger(__name__)
SERVED = "served_release"
SHOWN = 100  # of the bans


class SqliteSlots:
    """Saved as one fact for each pair of slots. `kind`: release, or an adapter's with the digest of its release."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def slots(self, kind: str, release: str = "") -> Slots:
        """What cannot be read is as good as never stored: what is verified anew then starts again."""
        tree = self._database.fact(_name(kind, release))
        try:
            return Slots(good=str(tree), newest=tree) if type(tree) is int else decode_slots(tree)
        except Malformed as error:
            log.warning("what was served as %s is not known any more: %s", kind, error)
            return Slots()

    def store(self, kind: str, release: str, slots: Slots, banned: Mapping[str, str]) -> None:
        """`banned`: digests and why, for good."""
        with self._database.transaction() as db:
            put_fact(db, _name(kind, release), encode_slots(slots))
            _ban(db, banned)

    def ban(self, banned: Mapping[str, str]) -> None:
        """Digests and why, for good."""
        with self._database.transaction() as db:
            _ban(db, banned)

    def drop(self, kind: str) -> None:
        """Forget all adapters of a kind, of every release."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM facts WHERE substr(name, 1, ?) = ?", (len(_name(kind, "")), _name(kind, "")))

    def bans(self) -> list[dict[str, Any]]:
        """What must not be installed now, with reason and end (epoch seconds or None)."""
        rows = self._database.rows(
            "SELECT digest, reason, until_s FROM bans WHERE until_s IS NULL OR until_s > ? LIMIT ?",
            self._clock(),
            SHOWN,
        )
        return [dict(zip(("digest", "reason", "until_s"), row, strict=True)) for row in rows]

    def ban_on(self, digest: str) -> str | None:
        """Why something with this digest must not be installed now."""
        found = self._database.rows(
            "SELECT reason FROM bans WHERE digest = ? AND (until_s IS NULL OR until_s > ?)", digest, self._clock()
        )
        return str(found[0][0]) if found else None

    def lift(self, digest: str) -> bool:
        """A person's word: it may be installed again. Whether it was banned."""
        if self.ban_on(digest) is None:
            return False
        with self._database.transaction() as db:  # replaced and not deleted: so the second copy is told
            db.execute("INSERT OR REPLACE INTO bans VALUES (?, 'lifted by a person', 0)", (digest,))
        return True


def _ban(db: sqlite3.Connection, banned: Mapping[str, str]) -> None:
    db.executemany("INSERT OR REPLACE INTO bans VALUES (?, ?, NULL)", banned.items())


def _name(kind: str, release: str) -> str:
    return SERVED if kind == RELEASE else f"slots.{kind}.{release}"
