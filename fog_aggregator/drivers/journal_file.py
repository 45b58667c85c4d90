"""The one SQLite file of a fog: its tables, its transactions, and what its errors mean to a person.

WAL with synchronous=FULL: a commit that returned survives a power cut (https://www.sqlite.org/pragma.html). A second
process may open the file at the same time (to make tokens, to read the ledger).
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from learning_core.errors import StateError

NAME = "journal.sqlite"
_VERSION = 1
_PRAGMAS = ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (digest BLOB PRIMARY KEY, public_key BLOB) WITHOUT ROWID;
CREATE TABLE devices (node_id TEXT PRIMARY KEY, name TEXT NOT NULL, public_key BLOB NOT NULL UNIQUE);
CREATE TABLE base (
    one INTEGER PRIMARY KEY CHECK (one = 1), release INTEGER NOT NULL, step INTEGER NOT NULL,
    manifest_sha256 TEXT NOT NULL, shared BLOB NOT NULL
);
CREATE TABLE rounds (
    number INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('open', 'closed', 'abandoned')),
    release INTEGER NOT NULL, step INTEGER NOT NULL,
    enrolled TEXT NOT NULL, cohort TEXT NOT NULL,
    clip_norm REAL NOT NULL, noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL, expected_cohort REAL NOT NULL,
    shared BLOB, delta BLOB, outcome TEXT,
    settled TEXT CHECK (settled IN ('here', 'by the cloud'))
);
CREATE UNIQUE INDEX one_open_round ON rounds (state) WHERE state = 'open';
CREATE INDEX unsettled ON rounds (number) WHERE state = 'closed' AND settled IS NULL;
CREATE INDEX with_delta ON rounds (number) WHERE delta IS NOT NULL;
CREATE TABLE charges (
    fog TEXT NOT NULL, round INTEGER NOT NULL,
    node_id TEXT NOT NULL REFERENCES devices (node_id) ON UPDATE CASCADE,
    noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL,
    PRIMARY KEY (fog, round, node_id)
) WITHOUT ROWID;
CREATE TABLE outbox (round INTEGER PRIMARY KEY REFERENCES rounds (number), verdict TEXT, reason TEXT);
CREATE INDEX unacknowledged ON outbox (round) WHERE verdict IS NULL;
"""


class JournalFile:
    """One connection, shared by the process's threads one transaction at a time; saved by each commit."""

    def __init__(self, folder: Path, reached: Callable[[str], None] = lambda _: None) -> None:
        self._path = folder / NAME
        self._reached = reached
        self._lock = threading.RLock()
        with self._sentences():
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            for pragma in _PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            self._prepare()

    @contextmanager
    def write(self, step: str) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it on disk when the block ends, nothing of it when the block raises."""
        with self._lock, self._sentences():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._reached(f"{step}.uncommitted")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._sentences():
            yield self._connection

    def fact(self, name: str) -> bytes | None:
        with self.read() as database:
            found = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])

    def remember(self, name: str, value: bytes) -> None:
        """Keep a fact, in place of what was known under the name."""
        with self.write(f"fact.{name}") as database:
            database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _prepare(self) -> None:
        with self.write("tables") as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise StateError(f"{self._path} was written by another version of this program; update the program")

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StateError(_sentence(self._path, error)) from error
        except OSError as error:
            raise StateError(f"{self._path.parent} cannot be used ({error.strerror}); check its permissions") from error


def _sentence(path: Path, error: sqlite3.DatabaseError) -> str:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return f"the disk that holds {path} is full; free some space and start again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"{path} cannot be written; make its folder writable for this user"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"{path} is damaged; restore it from a backup, because the privacy ledger is in it"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{path} is held by another process; stop that one and try again"
    return f"{path} could not be used ({error}); check the disk it is on"
