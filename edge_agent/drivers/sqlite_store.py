"""The device's one database: what it has kept, answered, spent and refused. Every change is whole or not at all."""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learning_core.errors import StateError

log = logging.getLogger(__name__)
MAX_WAIT_S = 5.0

FIRST = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (
    key INTEGER PRIMARY KEY, condition INTEGER NOT NULL, taken_at_s INTEGER NOT NULL, rank REAL NOT NULL,
    trained INTEGER NOT NULL DEFAULT 0, shape TEXT NOT NULL, features BLOB NOT NULL, embedding BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS arrivals (name TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    fog TEXT NOT NULL, round INTEGER NOT NULL, base_version TEXT NOT NULL, num_examples INTEGER NOT NULL,
    clip_norm REAL NOT NULL, metrics TEXT NOT NULL, delta BLOB, PRIMARY KEY (fog, round)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spendings (
    noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL, rounds INTEGER NOT NULL,
    PRIMARY KEY (noise_multiplier, sample_rate)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bans (digest TEXT PRIMARY KEY, reason TEXT NOT NULL, until_s REAL) WITHOUT ROWID;
"""

DECISIONS_AND_DAYS = """
CREATE TABLE decisions (
    key INTEGER PRIMARY KEY, at_s REAL NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL, sentence TEXT NOT NULL
);
CREATE TABLE days (day TEXT PRIMARY KEY, joules REAL NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""

MIGRATIONS = (FIRST, DECISIONS_AND_DAYS)  # user_version counts how many of them a database has seen


class Database:
    """One SQLite file, used by any thread, one at a time. Saved by every transaction that ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.RLock()
        with self._translated():
            self._db = sqlite3.connect(path, timeout=MAX_WAIT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # what is said to be stored survives a power cut
            self._migrate()

    def close(self) -> None:
        with self._turn:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of what is done inside, or nothing of it. Raises StateError."""
        with self._turn, self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._turn, self._translated():
            return self._db.execute(query, values).fetchall()

    def fact(self, name: str) -> Any:
        """A small JSON value, None when it was never set."""
        found = self.rows("SELECT value FROM facts WHERE name = ?", name)
        return json.loads(found[0][0]) if found else None

    def set_fact(self, name: str, value: Any) -> None:
        with self.transaction() as db:
            put_fact(db, name, value)

    def counts(self) -> dict[str, int]:
        return dict(self.rows("SELECT name, value FROM counts"))

    def count(self, amounts: Mapping[str, int]) -> None:
        with self.transaction() as db:
            add_counts(db, amounts)

    def erase(self) -> None:
        """Rewrite the file without what was deleted, and empty its log: neither holds a byte of it any more."""
        with self._turn, self._translated():
            self._db.execute("PRAGMA temp_store = MEMORY")  # the copy in between is nothing for another disk
            self._db.execute("VACUUM")
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StateError(f"another program reads {self._path}; stop that one and ask again")

    def _migrate(self) -> None:
        """Bring the tables up to date, each step whole or not at all. Raises StateError."""
        (seen,) = self._db.execute("PRAGMA user_version").fetchone()
        if seen > len(MIGRATIONS):
            self._db.close()
            text = f"the database {self._path} was written by a newer dewfall; install that version again to use it"
            raise StateError(text)
        for version, script in enumerate(MIGRATIONS[seen:], start=seen + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(
                f"the database {self._path} cannot be used ({error}); free disk space, or make its folder writable"
            ) from error


def put_fact(db: sqlite3.Connection, name: str, value: Any) -> None:
    db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))


def add_counts(db: sqlite3.Connection, amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        db.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, amount),
        )
