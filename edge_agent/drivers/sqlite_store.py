"""The device's one database: what it has kept, answered, spent and refused. Every change is whole or not at all.

One that is damaged is set aside at the start, and what may not be lost with it comes from its second copy.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_agent.drivers.second_copy import SecondCopy, Vital, merged, remove
from edge_agent.drivers.sqlite_damage import (
    AT_THE_START,
    damage,
    damaged,
    drop_impossible_samples,
    is_damage,
    set_aside,
)
from edge_agent.drivers.sqlite_vital import ERASING, PAUSED, TELLING, restore, vital_of
from learning_core.errors import StateError

log = logging.getLogger(__name__)
MAX_WAIT_S = 5.0
SPARE_LINES = 256  # of the second copy: changes of what has changed again since
KEY = "device.pem"  # who has a key has lived before

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

LABELS_AND_IDS = """
ALTER TABLE samples ADD COLUMN certainty REAL;
CREATE TABLE seen (key INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE);
"""

INCIDENTS = """
CREATE TABLE incidents (
    key INTEGER PRIMARY KEY, at_s REAL NOT NULL, outcome TEXT NOT NULL, causes TEXT NOT NULL, signals TEXT NOT NULL,
    tried TEXT NOT NULL, sentence TEXT NOT NULL
);
"""

# user_version counts how many of them a database has seen
MIGRATIONS = (FIRST, DECISIONS_AND_DAYS, LABELS_AND_IDS, INCIDENTS)


class Database:
    """One SQLite file, used by any thread, one at a time. Saved by every transaction that ends well."""

    def __init__(self, path: Path) -> None:
        """Raises StateError when it cannot be used; a damaged one is set aside, said in the log, and begun anew."""
        self._path = path
        self._turn = threading.RLock()
        self._copy = SecondCopy(path.with_name(f"{path.stem}.vital"))
        self._seq = 0
        self._changed: list[list[Any]] = []  # what the second copy has still to be told
        self._owed = 0  # how many of these are committed
        with self._translated():
            self._open()
            with self._closed_on_failure():
                self._agree()
                self._db.create_function("vital", -1, self._note)
                self._db.executescript(TELLING)

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
                if len(self._changed) > self._owed:
                    self._seq += 1
                    put_fact(self._db, "vital_seq", self._seq)
                self._db.execute("COMMIT")
            except BaseException:
                self._changed = self._changed[: self._owed]
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._owed = len(self._changed)
            self.settle()

    def settle(self) -> None:
        """Returns once the second copy knows all; before that nothing may leave the device. Raises StateError."""
        with self._turn:
            if self._changed:
                self._copy.append(self._seq, self._changed)
                self._changed, self._owed = [], 0

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
        """Rewrite the file without what was deleted, and empty its log: neither holds a byte of it any more.

        Nor does one that was set aside: nobody can tell what is in it.
        """
        with self._turn, self._translated():
            remove(damaged(self._path))
            self._db.execute("VACUUM")
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StateError(f"another program reads {self._path}; stop that one and ask again")

    def _open(self) -> None:
        """The database as it was left, or a new one in place of a damaged or a missing one."""
        self._begun_for = "" if self._path.is_file() and self._path.stat().st_size else "is gone"
        try:
            self._connect()
            with self._closed_on_failure():
                wrong = damage(self._db, MIGRATIONS)
        except UnicodeDecodeError:  # in what SQLite says of a schema whose bits have turned
            wrong = "its schema is no text"
        except sqlite3.Error as error:
            if not is_damage(error, AT_THE_START):
                raise
            wrong = str(error)
        if wrong is None:
            if gone := drop_impossible_samples(self._db):
                log.warning("%d kept samples in %s were damaged and are forgotten", gone, self._path)
            return
        self._db.close()
        vital, _, _ = self._copy.read()
        kept = set_aside(self._path, keep=not vital.facts.get(ERASING))
        self._begun_for = f"was damaged ({wrong}) and is now {kept}" if kept else f"was damaged ({wrong})"
        self._connect()

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, timeout=MAX_WAIT_S, isolation_level=None, check_same_thread=False)
        with self._closed_on_failure():
            self._db.text_factory = lambda data: data.decode("utf-8", "replace")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # what is said to be stored survives a power cut
            self._db.execute("PRAGMA temp_store = MEMORY")  # what `erase` copies is nothing for another disk
            self._migrate()

    def _migrate(self) -> None:
        """Bring the tables up to date, each step whole or not at all. Raises StateError."""
        (seen,) = self._db.execute("PRAGMA user_version").fetchone()
        if seen > len(MIGRATIONS):
            text = f"the database {self._path} was written by a newer dewfall; install that version again to use it"
            raise StateError(text)
        for version, script in enumerate(MIGRATIONS[seen:], start=seen + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;")

    def _agree(self) -> None:
        """Give database and second copy what the other one knows."""
        copy, lines, is_sound = self._copy.read()
        known = vital_of(self._db)
        true = merged(known, copy)
        unsure = known == Vital() and not is_sound and (self._path.parent / KEY).exists()
        if unsure or (self._begun_for and copy != Vital()):
            true = replace(true, facts={**true.facts, PAUSED: True}) if unsure else true
            known_from = "is known from its second copy, and the agent goes on"
            paused = "is not known for sure, so training is paused until `dewfall edge resume`"
            text = "the database %s %s: the samples it kept are lost; what was spent %s"
            log.error(text, self._path, self._begun_for or "is new", paused if unsure else known_from)
        self._seq = true.seq
        if true != known:
            self._db.execute("BEGIN IMMEDIATE")
            restore(self._db, true)
            self._db.execute("COMMIT")
        if true != copy or not is_sound or lines > 2 * len(true.changes()) + SPARE_LINES:
            self._copy.rewrite(true)

    def _note(self, *change: Any) -> None:
        """Called by the database itself, inside a transaction."""
        kind, *values = change
        self._changed.append([kind, values[0], json.loads(values[1])] if kind == "fact" else list(change))

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._db.close()
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if is_damage(error):
                text = f"the database {self._path} is damaged ({error}); start the agent again, and it sets it aside"
                raise StateError(text) from error
            raise StateError(
                f"the database {self._path} cannot be used ({error}); free disk space, or make its folder writable"
            ) from error
        except OSError as error:
            raise StateError(f"{self._path} cannot be used ({error.strerror}); make its folder writable") from error


def put_fact(db: sqlite3.Connection, name: str, value: Any) -> None:
    db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))


def add_counts(db: sqlite3.Connection, amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        db.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, amount),
        )
