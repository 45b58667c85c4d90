"""The kept samples in the database, bounded in bytes; which ones give way is decided by `learning_core.memory`."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.sqlite_store import Database, add_counts, put_fact
from edge_agent.drivers.sqlite_vital import ERASING
from edge_agent.selection import Everything, OneClass, OneSample, Selection
from edge_agent.values import Ingested
from learning_core.memory.keep_budget import Running, Threshold
from learning_core.memory.novelty import NOTHING, Kept
from learning_core.memory.replay import Place, evictions
from learning_core.params import Array
from learning_core.samples import Batch

ROW_BYTES = 128  # what a row costs besides its arrays, about
REBASE_ROWS = 256
NEWEST = "newest_sample"  # whatever becomes of it
IDS_KEPT = 100_000  # of the latest observations whose senders gave them one


class SqliteMemory:
    """Samples, the novelty threshold and the names of files already taken in: they change together or not at all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def threshold(self) -> Threshold:
        value = self._database.fact("novelty_threshold")
        if not isinstance(value, dict):  # never set, or one number, as it was when it had another meaning
            return Threshold()
        try:
            parts = {name: Running(**part) for name, part in value.items() if isinstance(part, dict)}
            return Threshold(value["ahead"], **parts)
        except (TypeError, KeyError):  # a disk turned bits in it
            return Threshold()

    def kept(self) -> Kept:
        rows = self._database.rows("SELECT condition, embedding FROM samples ORDER BY key")
        conditions = np.array([condition for condition, _ in rows], np.int64)
        embeddings = np.frombuffer(b"".join(embedding for _, embedding in rows), "<f4")
        return Kept.of(embeddings.reshape(len(rows), -1), conditions) if rows else NOTHING

    def places(self) -> list[Place]:
        rows = self._database.rows(
            "SELECT key, condition, length(features) + length(embedding) + ?, rank FROM samples ORDER BY key", ROW_BYTES
        )
        return [Place(*row) for row in rows]

    def samples(self) -> tuple[Batch, int]:
        """Everything kept, oldest first, and the key of the newest."""
        rows = self._database.rows("SELECT condition, shape, features, key FROM samples ORDER BY key")
        features = [_array(features, shape) for _, shape, features, _ in rows]
        conditions = np.array([condition for condition, *_ in rows], np.int64)
        batch = Batch(np.stack(features) if features else np.zeros((0, 0), np.float32), conditions)
        return batch, rows[-1][-1] if rows else 0

    def size(self) -> int:
        return int(self._database.rows("SELECT count(*) FROM samples")[0][0])

    def newest_key(self) -> int:
        """Of the last sample that was ever kept: no key is given twice, whatever is forgotten. 0 before the first."""
        (newest,) = self._database.rows("SELECT max(key) FROM samples")[0]
        return max(newest or 0, self._database.fact(NEWEST) or 0)

    def knows(self, name: str, digest: str) -> bool:
        """Whether this very file was taken in already."""
        return bool(self._database.rows("SELECT 1 FROM arrivals WHERE name = ? AND digest = ?", name, digest))

    def knows_ids(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which observations were taken in already, [N]; those without an id (0) never."""
        asked = json.dumps(ids[ids != 0].tolist())
        known = self._database.rows("SELECT id FROM seen WHERE id IN (SELECT value FROM json_each(?))", asked)
        return np.isin(ids, np.array([each for (each,) in known], np.int64))

    def forget_arrival(self, name: str) -> None:
        """The file is gone from the spool, so its name may come again."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM arrivals WHERE name = ?", (name,))

    def store(self, ingested: Ingested, max_bytes: int) -> None:
        """Everything an arrival changes, in one transaction."""
        with self._database.transaction() as db:
            newest = self.newest_key()
            db.executemany(
                "INSERT INTO samples (key, condition, taken_at_s, rank, shape, features, embedding, certainty)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        key,
                        new.condition,
                        new.taken_at_s,
                        new.rank,
                        json.dumps(new.features.shape),
                        new.features.astype("<f4").tobytes(),
                        new.embedding.astype("<f4").tobytes(),
                        new.certainty,
                    )
                    for key, new in enumerate(ingested.kept, newest + 1)
                ],
            )
            put_fact(db, NEWEST, newest + len(ingested.kept))
            gone = evictions(self.places(), max_bytes)
            db.executemany("DELETE FROM samples WHERE key = ?", [(key,) for key in gone])
            put_fact(db, "novelty_threshold", asdict(ingested.threshold))
            db.execute(
                "INSERT OR REPLACE INTO arrivals VALUES (?, ?)", (ingested.arrival.name, ingested.arrival.digest)
            )
            ids = ingested.arrival.ids
            db.executemany("INSERT OR IGNORE INTO seen (id) VALUES (?)", [(each,) for each in ids[ids != 0].tolist()])
            db.execute("DELETE FROM seen WHERE key <= (SELECT max(key) FROM seen) - ?", (IDS_KEPT,))
            seen, kept = len(ingested.arrival.batch), len(ingested.kept)
            totals = {"seen": seen, "kept": kept, "dropped": seen - kept - ingested.unsure, "unsure": ingested.unsure}
            totals |= {"proposed": sum(new.certainty is not None for new in ingested.kept), "files": 1}
            why = {f"why.{reason}": amount for reason, amount in ingested.reasons.items()}
            add_counts(db, totals | why | {"forgotten": len(gone)})

    def mark_trained(self, newest: int) -> None:
        """Samples up to this key have taken part in a fit; counts those that had not before."""
        with self._database.transaction() as db:
            done = db.execute("UPDATE samples SET trained = 1 WHERE trained = 0 AND key <= ?", (newest,))
            add_counts(db, {"trained": done.rowcount})

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The last samples that are kept, without what is in them; the newest at the end.

        `certainty`: of a class that was proposed for a sample, None where it came with one.
        """
        rows = self._database.rows(
            "SELECT key, condition, taken_at_s, certainty FROM samples ORDER BY key DESC LIMIT ?", count
        )
        return [dict(zip(("key", "class", "taken_at_s", "certainty"), row, strict=True)) for row in reversed(rows)]

    def features(self, key: int) -> Array | None:
        rows = self._database.rows("SELECT features, shape FROM samples WHERE key = ?", key)
        return _array(*rows[0]) if rows else None

    def forget(self, selection: Selection) -> int:
        """Delete the selected samples; how many. Their bytes are gone after `Database.erase`, still owed until then."""
        with self._database.transaction() as db:
            match selection:
                case OneSample(key):
                    done = db.execute("DELETE FROM samples WHERE key = ?", (key,))
                case OneClass(condition):
                    done = db.execute("DELETE FROM samples WHERE condition = ?", (condition,))
                case Everything():
                    done = db.execute("DELETE FROM samples")
            gone = done.rowcount
            put_fact(db, ERASING, True)
            add_counts(db, {"forgotten": gone})
        return gone

    def base(self) -> str:
        """The digest of the release whose embeddings are stored."""
        return self._database.fact("embedded_by") or ""

    def rebase(self, digest: str, embed: Callable[[Array], Array], shape: tuple[int, ...], num_conditions: int) -> None:
        """Embed everything anew for another release, since distances between two models' embeddings mean nothing.

        Samples the release has no place for are forgotten.
        """
        fits = (json.dumps(shape), num_conditions)
        rows = self._database.rows(
            "SELECT key, features FROM samples WHERE shape = ? AND condition < ? ORDER BY key", *fits
        )
        embedded = [
            (new.astype("<f4").tobytes(), key)
            for start in range(0, len(rows), REBASE_ROWS)
            for key, new in _embedded(rows[start : start + REBASE_ROWS], embed, shape)
        ]
        with self._database.transaction() as db:
            gone = db.execute("DELETE FROM samples WHERE shape != ? OR condition >= ?", fits).rowcount
            db.executemany("UPDATE samples SET embedding = ? WHERE key = ?", embedded)
            put_fact(db, "embedded_by", digest)
            put_fact(db, "novelty_threshold", asdict(Threshold(self.threshold().ahead)))
            add_counts(db, {"forgotten": gone})


def _embedded(
    rows: list[tuple[int, bytes]], embed: Callable[[Array], Array], shape: tuple[int, ...]
) -> Iterator[tuple[int, Array]]:
    features = np.stack([_array(features, json.dumps(shape)) for _, features in rows])
    return zip((key for key, _ in rows), embed(features), strict=True)


def _array(data: bytes, shape: str) -> Array:
    return np.frombuffer(data, "<f4").reshape(json.loads(shape))
