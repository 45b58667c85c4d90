"""Rounds, ledger, outbox and shared adapter in SQLite: each method one transaction, each safe to repeat.

kill -9 between any two of them, or inside one, and the next start finds either the step done or not begun.
"""

import json
import math
import sqlite3
from dataclasses import asdict
from typing import Any

from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.plans import Base, Mirrored, RoundOutcome, RoundPlan, Terms
from learning_core.errors import StateError
from learning_core.federation.accountant import Spending
from learning_core.params import Params, Shapes, add, zeros
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import Ack
from protos.codec import decode_params, encode_params


class SqliteJournal:
    """The fog's memory across kills. `name` is written into a new file; a file of another fog is refused."""

    def __init__(self, file: JournalFile, name: str) -> None:
        self._file = file
        self._name = name
        owner = file.fact("fog")
        if owner is None:
            file.remember("fog", name.encode())
        elif owner.decode() != name:
            raise StateError(
                f"this state folder belongs to {owner.decode()!r}, not to {name!r}; name another state folder,"
                " because charges of one fog must not be mixed with another's"
            )

    def base(self) -> Base | None:
        with self._file.read() as database:
            row = database.execute("SELECT release, step, shared, manifest_sha256 FROM base").fetchone()
        return None if row is None else Base(ModelVersion(row[0], row[1]), decode_params(row[2]), row[3])

    def enrolled(self) -> tuple[int, ...]:
        with self._file.read() as database:
            return tuple(sorted(int(node) for (node,) in database.execute("SELECT node_id FROM devices")))

    def histories(self) -> dict[int, tuple[Spending, ...]]:
        with self._file.read() as database:
            rows = database.execute(
                "SELECT node_id, noise_multiplier, sample_rate, COUNT(*) FROM charges GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
            ).fetchall()
        found: dict[int, tuple[Spending, ...]] = {}
        for node, noise_multiplier, sample_rate, times in rows:
            found[int(node)] = (*found.get(int(node), ()), Spending(noise_multiplier, sample_rate, times))
        return found

    def next_round(self) -> int:
        with self._file.read() as database:
            return int(database.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM rounds").fetchone()[0])

    def open_round(self, plan: RoundPlan) -> None:
        terms = plan.terms
        with self._file.write("open") as database:
            database.execute(
                "INSERT INTO rounds (number, state, release, step, enrolled, cohort, clip_norm, noise_multiplier,"
                " sample_rate, expected_cohort, shared) VALUES (?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    plan.number,
                    plan.base_version.release,
                    plan.base_version.step,
                    json.dumps(plan.enrolled),
                    json.dumps(plan.cohort),
                    terms.clip_norm,
                    terms.noise_multiplier,
                    terms.sample_rate,
                    plan.expected_cohort,
                    encode_params(plan.shared),
                ),
            )

    def opened(self) -> RoundPlan | None:
        with self._file.read() as database:
            row = database.execute(
                "SELECT number, release, step, shared, enrolled, cohort, clip_norm, noise_multiplier, sample_rate"
                " FROM rounds WHERE state = 'open'"
            ).fetchone()
        if row is None:
            return None
        enrolled, cohort = (tuple(json.loads(text)) for text in row[4:6])
        return RoundPlan(row[0], ModelVersion(row[1], row[2]), decode_params(row[3]), enrolled, cohort, Terms(*row[6:]))

    def charge(self, plan: RoundPlan) -> None:
        terms = plan.terms
        with self._file.write("charge") as database:
            database.executemany(
                "INSERT OR IGNORE INTO charges SELECT ?, ?, node_id, ?, ? FROM devices WHERE node_id = ?",
                [
                    (self._name, plan.number, terms.noise_multiplier, terms.sample_rate, str(node))
                    for node in plan.enrolled
                ],
            )

    def close_round(self, outcome: RoundOutcome, aggregate: Aggregate) -> None:
        with self._file.write("close") as database:
            changed = database.execute(
                "UPDATE rounds SET state = 'closed', shared = NULL, delta = ?, outcome = ?"
                " WHERE number = ? AND state = 'open'",
                (encode_params(aggregate.delta), json.dumps(_outcome_record(outcome)), aggregate.round),
            ).rowcount
            if changed != 1:
                raise StateError(f"round {aggregate.round} is not open; it must not be released twice")
            database.execute("INSERT INTO outbox (round) VALUES (?)", (aggregate.round,))

    def abandon_round(self, number: int, reason: str) -> None:
        with self._file.write("abandon") as database:
            database.execute(
                "UPDATE rounds SET state = 'abandoned', shared = NULL, outcome = ? WHERE number = ? AND state = 'open'",
                (json.dumps({"abandoned": reason}), number),
            )

    def unsettled(self) -> int | None:
        with self._file.read() as database:
            row = database.execute(
                "SELECT MIN(number) FROM rounds WHERE state = 'closed' AND settled IS NULL"
            ).fetchone()
        return None if row[0] is None else int(row[0])

    def settle_locally(self, number: int) -> None:
        with self._file.write("settle") as database:
            row = database.execute(
                "SELECT rounds.delta, base.shared FROM rounds JOIN base ON base.release = rounds.release"
                " WHERE number = ? AND state = 'closed' AND settled IS NULL",
                (number,),
            ).fetchone()
            if row is not None:
                shared = add(decode_params(row[1]), decode_params(row[0]))
                database.execute("UPDATE base SET shared = ?", (encode_params(shared),))
            database.execute("UPDATE rounds SET settled = 'here' WHERE number = ? AND settled IS NULL", (number,))
            _forget_deltas(database)

    def outgoing(self) -> Aggregate | None:
        with self._file.read() as database:
            row = database.execute(
                "SELECT delta, expected_cohort, release, step, number FROM outbox JOIN rounds ON number = round"
                " WHERE verdict IS NULL ORDER BY number LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        return Aggregate(decode_params(row[0]), row[1], ModelVersion(row[2], row[3]), self._name, row[4])

    def acknowledge(self, number: int, ack: Ack) -> None:
        with self._file.write("acknowledge") as database:
            database.execute(
                "UPDATE outbox SET verdict = ?, reason = ? WHERE round = ? AND verdict IS NULL",
                (ack.verdict.value, ack.reason, number),
            )
            _forget_deltas(database)

    def adopt_release(self, release: Mirrored, shapes: Shapes) -> None:
        with self._file.write("release") as database:
            changed = database.execute(
                "INSERT INTO base VALUES (1, :release, 0, :sha256, :shared) ON CONFLICT DO UPDATE SET"
                " release = :release, step = 0, manifest_sha256 = :sha256, shared = :shared WHERE release < :release",
                {
                    "release": release.version,
                    "sha256": release.manifest_sha256,
                    "shared": encode_params(zeros(shapes)),
                },
            ).rowcount
            if changed:
                _settle_by_cloud(database)

    def adopt_shared(self, version: ModelVersion, shared: Params) -> None:
        with self._file.write("shared") as database:
            changed = database.execute(
                "UPDATE base SET step = ?, shared = ? WHERE release = ? AND step < ?",
                (version.step, encode_params(shared), version.release, version.step),
            ).rowcount
            if changed:
                _settle_by_cloud(database)

    def waiting(self) -> int:
        """How many aggregates the cloud has not acknowledged."""
        with self._file.read() as database:
            return int(database.execute("SELECT COUNT(*) FROM outbox WHERE verdict IS NULL").fetchone()[0])

    def rounds_by_release(self) -> dict[int, int]:
        """How many rounds were released on each release."""
        with self._file.read() as database:
            rows = database.execute("SELECT release, COUNT(*) FROM rounds WHERE state = 'closed' GROUP BY 1 ORDER BY 1")
            return dict(rows.fetchall())

    def history(self, last: int) -> list[dict[str, Any]]:
        """The last rounds that ended, oldest first, as plain records for people."""
        with self._file.read() as database:
            rows = database.execute(
                "SELECT outcome, settled, verdict, reason, noise_multiplier, sample_rate, number, release, step, state"
                " FROM rounds LEFT JOIN outbox ON round = number WHERE state != 'open' ORDER BY number DESC LIMIT ?",
                (last,),
            ).fetchall()
        return [_history_record(*row) for row in reversed(rows)]


def _history_record(  # in the order of the query
    outcome: str,
    settled: str | None,
    verdict: str | None,
    reason: str | None,
    noise_multiplier: float,
    sample_rate: float,
    number: int,
    release: int,
    step: int,
    state: str,
) -> dict[str, Any]:
    return {
        "round": number,
        "base_version": str(ModelVersion(release, step)),
        "state": state,
        **json.loads(outcome),
        "noise_multiplier": noise_multiplier,
        "sample_rate": sample_rate,
        "settled": settled,
        "acknowledged": verdict,
        "acknowledged_because": reason,
    }


def _outcome_record(outcome: RoundOutcome) -> dict[str, Any]:
    """Node ids become text, as JSON's keys are and as its numbers cannot hold 64 bits everywhere."""
    record = asdict(outcome)
    del record["base_version"]
    for name in ("cohort", "accepted"):
        record[name] = [str(node) for node in record[name]]
    if not math.isfinite(outcome.epsilon):
        record["epsilon"] = None  # JSON has no infinity: no guarantee at all
    for name in ("declined", "refused", "silent"):
        record[name] = {str(node): reason for node, reason in record[name].items()}
    return record


def _settle_by_cloud(database: sqlite3.Connection) -> None:
    database.execute("UPDATE rounds SET settled = 'by the cloud' WHERE state = 'closed' AND settled IS NULL")
    _forget_deltas(database)


def _forget_deltas(database: sqlite3.Connection) -> None:
    """Nobody needs a change that is acknowledged and settled."""
    database.execute(
        "UPDATE rounds SET delta = NULL WHERE delta IS NOT NULL AND settled IS NOT NULL"
        " AND number IN (SELECT round FROM outbox WHERE verdict IS NOT NULL)"
    )
