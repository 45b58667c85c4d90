"""Whether a database is what this program wrote: every check a query, the damaged file put where a person can look."""

import json
import logging
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_agent.drivers.second_copy import remove
from learning_core.errors import StateError
from protos.state_folder import settle

log = logging.getLogger(__name__)
FLOAT_BYTES = 4
SHOWS_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
AT_THE_START = SHOWS_DAMAGE | {sqlite3.SQLITE_ERROR}  # its tables are not those it says it has
ENDINGS = ("", "-wal", "-shm")  # a database, its log, and what its users share

# Bits that turn on a disk also turn values into others of another kind; what these find, no later query has to fear.
IMPOSSIBLE = {
    "facts": "NOT json_valid(value)",
    "counts": "typeof(value) != 'integer'",
    "days": "typeof(joules) != 'real' OR joules < 0 OR typeof(bytes) != 'integer' OR bytes < 0",
    "decisions": "typeof(at_s) != 'real' OR typeof(sentence) != 'text'",
    "spendings": """typeof(noise_multiplier) != 'real' OR noise_multiplier < 0 OR typeof(sample_rate) != 'real'
        OR sample_rate < 0 OR sample_rate > 1 OR typeof(rounds) != 'integer' OR rounds < 0""",
    "bans": "typeof(digest) != 'text' OR typeof(reason) != 'text' OR typeof(until_s) NOT IN ('real', 'null')",
    "answers": """typeof(fog) != 'text' OR typeof(round) != 'integer' OR NOT json_valid(metrics)
        OR typeof(clip_norm) != 'real' OR typeof(num_examples) != 'integer'""",
    "seen": "typeof(id) != 'integer'",
    "incidents": """typeof(at_s) != 'real' OR typeof(sentence) != 'text' OR typeof(outcome) != 'text'
        OR NOT json_valid(causes) OR NOT json_valid(signals) OR NOT json_valid(tried)""",
    "samples": """typeof(condition) != 'integer' OR condition < 0 OR typeof(taken_at_s) != 'integer'
        OR typeof(rank) != 'real' OR typeof(trained) != 'integer' OR NOT json_valid(shape)
        OR typeof(certainty) NOT IN ('real', 'null')
        OR typeof(features) != 'blob' OR typeof(embedding) != 'blob' OR length(embedding) % 4 != 0""",
}


def is_damage(error: sqlite3.Error, codes: frozenset[int] = SHOWS_DAMAGE) -> bool:
    """Whether an error tells of a file that is broken, rather than of a disk that is full or a file in use."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in codes


def damage(db: sqlite3.Connection, scripts: Sequence[str]) -> str | None:
    """What is wrong with a database that `scripts` should have made, None when nothing is. Raises sqlite3.Error."""
    found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        return found[0] if found else "its check says nothing"
    if missing := _columns_after(scripts) - _columns(db):
        return "there is no {1} in its table {0}".format(*min(missing))
    for table, impossible in IMPOSSIBLE.items():
        if db.execute(f"SELECT 1 FROM {table} WHERE {impossible} LIMIT 1").fetchone():  # noqa: S608
            return f"its table {table} holds what cannot be"
    for shape, size in db.execute("SELECT DISTINCT shape, length(features) FROM samples").fetchall():
        if not _fits(json.loads(shape), size):
            return f"a sample in it has {size} bytes and the shape {shape}"
    if len(db.execute("SELECT DISTINCT length(embedding) FROM samples").fetchall()) > 1:
        return "embeddings in it have several lengths"
    return None


def drop_impossible_samples(db: sqlite3.Connection) -> int:
    """Delete samples with a number that is none, which would make all that is learned with them none; how many.

    Nothing that was taken in has one: bits turned. Raises sqlite3.Error.
    """
    rows = db.execute("SELECT key, features, embedding FROM samples")
    gone = [(key,) for key, *blobs in rows if not all(np.isfinite(np.frombuffer(each, "<f4")).all() for each in blobs)]
    db.executemany("DELETE FROM samples WHERE key = ?", gone)
    return len(gone)


def set_aside(path: Path, keep: bool) -> Path | None:
    """Move a database and its log out of the way, in place of one moved earlier; where it is, None if not kept."""
    try:
        remove(damaged(path))
        if not keep:
            remove(path.with_name(path.name + ending) for ending in ENDINGS)
            return None
        for ending in reversed(
            ENDINGS
        ):  # the log first: without it the rest is found damaged again, and not the reverse
            if (part := path.with_name(path.name + ending)).exists():
                part.replace(path.with_name(f"{path.name}.damaged{ending}"))
        settle(path.parent)
    except OSError as error:
        raise StateError(f"{path} is damaged and cannot be moved ({error.strerror}); make it writable") from error
    return path.with_name(f"{path.name}.damaged")


def damaged(path: Path) -> list[Path]:
    """The files of a database that was set aside."""
    return [path.with_name(f"{path.name}.damaged{ending}") for ending in ENDINGS]


def _columns(db: sqlite3.Connection) -> set[tuple[str, str]]:
    query = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    return {(str(table), str(column)) for table, column in db.execute(query)}


def _columns_after(scripts: Sequence[str]) -> set[tuple[str, str]]:
    fresh = sqlite3.connect(":memory:")
    try:
        for script in scripts:
            fresh.executescript(script)
        return _columns(fresh)
    finally:
        fresh.close()


def _fits(shape: object, size: int) -> bool:
    return (
        isinstance(shape, list)
        and all(type(side) is int and side > 0 for side in shape)
        and math.prod(shape) * FLOAT_BYTES == size
    )
