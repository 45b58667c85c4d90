"""The cloud's memory in one SQLite file: write-ahead log, every commit on the disk before it is believed."""

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cloud_server.consolidation import Buffered
from cloud_server.evaluation import Evaluation
from cloud_server.ports import AggregateRow, ReleaseRow
from learning_core.errors import StateError
from learning_core.params import Params
from learning_core.updates import Aggregate, ModelVersion
from protos.codec import decode_params, encode_params

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    sha256 TEXT PRIMARY KEY, fog TEXT NOT NULL, issued_at_s REAL NOT NULL, valid_until_s REAL NOT NULL,
    credential_sha256 TEXT);
CREATE TABLE IF NOT EXISTS fogs (
    name TEXT PRIMARY KEY, credential_sha256 TEXT NOT NULL UNIQUE, enrolled_at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS shared (
    release INTEGER, step INTEGER, adapter BLOB NOT NULL, made_at_s REAL NOT NULL,
    PRIMARY KEY (release, step));
CREATE TABLE IF NOT EXISTS aggregates (
    fog TEXT, round INTEGER, release INTEGER NOT NULL, step INTEGER NOT NULL, expected_cohort REAL NOT NULL,
    delta BLOB NOT NULL, digest TEXT NOT NULL, refused TEXT NOT NULL, received_at_s REAL NOT NULL,
    counted_release INTEGER, counted_step INTEGER, PRIMARY KEY (fog, round));
CREATE TABLE IF NOT EXISTS distillations (
    release INTEGER, step INTEGER, begun_at_s REAL NOT NULL, outcome TEXT NOT NULL DEFAULT '', ended_at_s REAL,
    PRIMARY KEY (release, step));
CREATE TABLE IF NOT EXISTS releases (
    id INTEGER PRIMARY KEY, version INTEGER NOT NULL, from_release INTEGER NOT NULL, from_step INTEGER NOT NULL,
    evaluation TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, examined_at_s REAL NOT NULL,
    UNIQUE (from_release, from_step));
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, at_s REAL NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL);
"""
_BUFFERED = "refused = '' AND counted_release IS NULL"
P = ParamSpec("P")
R = TypeVar("R")


def _ours(function: Callable[P, R]) -> Callable[P, R]:
    """SQLite's errors as sentences."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
            raise StateError(
                f"the registry cannot be used ({error}); see that its folder is writable and its disk has room"
            ) from error

    return call


class SqliteRegistry:
    """Implements `ports.Registry`; saved as its file. One connection, one thread in it at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._turn = threading.RLock()

    @classmethod
    @_ours
    def open(cls, path: Path) -> "SqliteRegistry":
        connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        with self._turn:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a transaction inside another is part of it."""
        with self._turn:
            if self._connection.in_transaction:
                yield
                return
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def add_token(self, token_sha256: str, fog: str, now_s: float, valid_until_s: float) -> None:
        self._run("INSERT INTO tokens VALUES (?, ?, ?, ?, NULL)", token_sha256, fog, now_s, valid_until_s)

    def enroll(self, token_sha256: str, fog: str, credential_sha256: str, now_s: float) -> str | None:
        with self.transaction():
            found = self._run("SELECT fog, valid_until_s, credential_sha256 FROM tokens WHERE sha256 = ?", token_sha256)
            if not found or found[0][0] != fog:
                return "this token is not one for this fog; ask for a new one with `enroll-token`"
            _, valid_until_s, bound = found[0]
            if bound is not None:
                return None if bound == credential_sha256 else "this token was used before; ask for a new one"
            if now_s > valid_until_s:
                return "this token has expired; ask for a new one with `enroll-token`"
            if self.fog_of(credential_sha256) not in {None, fog}:
                return "this credential belongs to another fog; make a new one"
            self._run("UPDATE tokens SET credential_sha256 = ? WHERE sha256 = ?", credential_sha256, token_sha256)
            self._run("INSERT OR REPLACE INTO fogs VALUES (?, ?, ?)", fog, credential_sha256, now_s)
            self.add_audit("enrolled", fog, now_s)
        return None

    def fog_of(self, credential_sha256: str) -> str | None:
        found = self._run("SELECT name FROM fogs WHERE credential_sha256 = ?", credential_sha256)
        return found[0][0] if found else None

    def fogs(self) -> list[str]:
        return [name for (name,) in self._run("SELECT name FROM fogs ORDER BY name")]

    def digest_of(self, fog: str, number: int) -> tuple[str, str] | None:
        found = self._run("SELECT digest, refused FROM aggregates WHERE fog = ? AND round = ?", fog, number)
        return (found[0][0], found[0][1]) if found else None

    def add_aggregate(self, aggregate: Aggregate, digest: str, refused: str, now_s: float) -> None:
        base = aggregate.base_version
        self._run(
            "INSERT INTO aggregates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            *(aggregate.fog, aggregate.round, base.release, base.step, aggregate.expected_cohort),
            *(b"" if refused else encode_params(aggregate.delta), digest, refused, now_s),
        )

    def buffered(self) -> list[Buffered]:
        rows = self._run(f"SELECT fog, round, received_at_s FROM aggregates WHERE {_BUFFERED}")  # noqa: S608
        return [Buffered(*row) for row in rows]

    def buffered_aggregates(self) -> list[Aggregate]:
        rows = self._run(
            f"SELECT delta, expected_cohort, release, step, fog, round FROM aggregates WHERE {_BUFFERED}"  # noqa: S608
        )
        return [
            Aggregate(decode_params(delta), cohort, ModelVersion(release, step), fog, number)
            for delta, cohort, release, step, fog, number in rows
        ]

    def aggregates(self) -> list[AggregateRow]:
        rows = self._run(
            "SELECT fog, round, release, step, refused, counted_release, counted_step FROM aggregates "
            "ORDER BY fog, round"
        )
        return [_aggregate_row(*row) for row in rows]

    def shared_version(self) -> ModelVersion | None:
        found = self._run("SELECT release, step FROM shared ORDER BY release DESC, step DESC LIMIT 1")
        return ModelVersion(*found[0]) if found else None

    def shared_adapter(self, version: ModelVersion) -> Params:
        found = self._run("SELECT adapter FROM shared WHERE release = ? AND step = ?", version.release, version.step)
        if not found:
            raise StateError(f"the registry has no shared adapter {version}; restore it from a backup")
        return decode_params(found[0][0])

    def add_shared(
        self, version: ModelVersion, adapter: Params, counted: Collection[tuple[str, int]], now_s: float
    ) -> None:
        with self.transaction():
            at = (version.release, version.step)
            self._run("INSERT INTO shared VALUES (?, ?, ?, ?)", *at, encode_params(adapter), now_s)
            for fog, number in counted:
                self._run(
                    "UPDATE aggregates SET counted_release = ?, counted_step = ?, delta = x'' "
                    "WHERE fog = ? AND round = ?",
                    *(*at, fog, number),
                )

    def shared_versions(self) -> list[tuple[ModelVersion, float]]:
        rows = self._run("SELECT release, step, made_at_s FROM shared ORDER BY release, step")
        return [(ModelVersion(release, step), made_at_s) for release, step, made_at_s in rows]

    def begin_distilling(self, version: ModelVersion, now_s: float) -> None:
        self._run(
            "INSERT INTO distillations (release, step, begun_at_s) VALUES (?, ?, ?)",
            *(version.release, version.step, now_s),
        )

    def distilling(self) -> ModelVersion | None:
        found = self._run("SELECT release, step FROM distillations WHERE outcome = '' ORDER BY release, step LIMIT 1")
        return ModelVersion(*found[0]) if found else None

    def last_attempt(self, release: int) -> int:
        found = self._run("SELECT coalesce(max(step), 0) FROM distillations WHERE release = ?", release)
        return int(found[0][0])

    def end_distilling(self, outcome: str, now_s: float) -> None:
        self._run("UPDATE distillations SET outcome = ?, ended_at_s = ? WHERE outcome = ''", outcome, now_s)

    def add_release(self, row: ReleaseRow) -> None:
        self._run(
            "INSERT INTO releases (version, from_release, from_step, evaluation, manifest_sha256, examined_at_s) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *(row.version, row.made_from.release, row.made_from.step),
            *(row.evaluation.model_dump_json(), row.manifest_sha256, row.examined_at_s),
        )

    def releases(self) -> list[ReleaseRow]:
        rows = self._run(
            "SELECT version, from_release, from_step, evaluation, manifest_sha256, examined_at_s FROM releases "
            "ORDER BY id"
        )
        return [
            ReleaseRow(version, ModelVersion(release, step), Evaluation.model_validate_json(evaluation), sha256, at_s)
            for version, release, step, evaluation, sha256, at_s in rows
        ]

    def latest_release(self) -> ReleaseRow | None:
        return next((row for row in reversed(self.releases()) if row.evaluation.publish), None)

    def add_audit(self, event: str, detail: str, now_s: float) -> None:
        self._run("INSERT INTO audit (at_s, event, detail) VALUES (?, ?, ?)", now_s, event, detail)

    def audit(self) -> Sequence[tuple[float, str, str]]:
        return [(at_s, event, detail) for at_s, event, detail in self._run("SELECT at_s, event, detail FROM audit")]

    @_ours
    def _run(self, sql: str, *values: Any) -> list[Any]:
        with self._turn:
            return self._connection.execute(sql, values).fetchall()


def _aggregate_row(
    fog: str, number: int, release: int, step: int, refused: str, counted_release: int | None, counted_step: int | None
) -> AggregateRow:
    counted = None if counted_release is None or counted_step is None else ModelVersion(counted_release, counted_step)
    state = "refused" if refused else "counted" if counted else "buffered"
    return AggregateRow(fog, number, state, refused, ModelVersion(release, step), counted)
