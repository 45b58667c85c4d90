"""What must not be done twice or forgotten: answers to rounds, the privacy odometer, banned releases, jobs sent off."""

import json
import logging
import sqlite3

from edge_agent.drivers.sqlite_store import Database, add_counts, put_fact
from edge_agent.drivers.sqlite_vital import FAR_JOBS
from edge_agent.values import Answer
from learning_core.errors import Malformed
from learning_core.federation.accountant import Spending
from learning_core.updates import ClippedUpdate, ModelVersion, Update
from protos.codec import decode_params, encode_params

log = logging.getLogger(__name__)
NOISED = "noised_samples"
LONGEST_BAN_S = 86_400.0  # one that ends later was written by a clock that ran ahead
ANSWERS_WITH_BYTES = 4  # of each fog: a fog that comes back asks for its latest round again, not for an old one


class SqliteJournal:
    """Answers and spendings: an update and its charge are stored in one transaction, before the update is sent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def answered(self, fog: str, round_: int) -> bool:
        return bool(self._database.rows("SELECT 1 FROM answers WHERE fog = ? AND round = ?", fog, round_))

    def answer(self, fog: str, round_: int) -> Answer | None:
        """What was sent for this round, as long as its bytes are kept. Raises StateError."""
        self._database.settle()  # a full disk may have come between an answer and its second record
        rows = self._database.rows(
            "SELECT base_version, num_examples, clip_norm, metrics, delta FROM answers"
            " WHERE fog = ? AND round = ? AND delta IS NOT NULL",
            fog,
            round_,
        )
        if not rows:
            return None
        base_version, num_examples, clip_norm, metrics, delta = rows[0]
        try:
            update = Update(decode_params(delta), num_examples, ModelVersion.parse(base_version))
            return Answer(ClippedUpdate(update, clip_norm), json.loads(metrics))
        except (Malformed, ValueError) as error:  # a disk turned bits in it: another update must not be sent instead
            log.warning("what was sent for round %d of %s cannot be read any more: %s", round_, fog, error)
            return None

    def record(self, fog: str, round_: int, answer: Answer, spending: Spending) -> None:
        """Charge and answer, together: after it the update may leave, and leaves at most once per charge."""
        update = answer.update.update
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    fog,
                    round_,
                    str(update.base_version),
                    update.num_examples,
                    answer.update.clip_norm,
                    json.dumps(dict(answer.metrics)),
                    encode_params(update.delta),
                ),
            )
            _charge(db, spending)
            db.execute(
                "UPDATE answers SET delta = NULL WHERE fog = ? AND round NOT IN"
                " (SELECT round FROM answers WHERE fog = ? ORDER BY round DESC LIMIT ?)",
                (fog, fog, ANSWERS_WITH_BYTES),
            )
            add_counts(db, {"updates": 1})

    def spendings(self) -> list[Spending]:
        rows = self._database.rows("SELECT noise_multiplier, sample_rate, rounds FROM spendings")
        return [Spending(*row) for row in rows]

    def paid(self) -> tuple[str, int]:
        """The set of noised samples this device paid for last, and how many; ("", 0) for none. Raises StateError."""
        self._database.settle()
        found = self._database.fact(NOISED) or {"set": "", "count": 0}
        return str(found["set"]), int(found["count"])

    def pay(self, set_: str, count: int, spending: Spending) -> None:
        """Charge for noised samples, of which `count` of this set are paid then: after it they may leave, for good."""
        with self._database.transaction() as db:
            _charge(db, spending)
            put_fact(db, NOISED, {"set": set_, "count": count})

    def far_jobs(self) -> list[bytes]:
        """The names of jobs that a fog may have samples of, the oldest first."""
        return [bytes.fromhex(each) for each in self._database.fact(FAR_JOBS) or []]

    def sent_away(self, job: bytes) -> None:
        """After it the job's samples may leave: the fog is owed the word to drop them."""
        with self._database.transaction() as db:
            if job not in (jobs := self.far_jobs()):
                put_fact(db, FAR_JOBS, [each.hex() for each in (*jobs, job)])

    def dropped(self, job: bytes) -> None:
        """The fog has forgotten the job."""
        with self._database.transaction() as db:
            put_fact(db, FAR_JOBS, [each.hex() for each in self.far_jobs() if each != job])

    def tally(self, what: str) -> None:
        """One more of something that is only counted."""
        self._database.count({what: 1})

    def ban(self, digest: str, reason: str, until_s: float | None) -> None:
        """Never load this release again, or not before `until_s` (epoch seconds)."""
        with self._database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO bans VALUES (?, ?, ?)", (digest, reason, until_s))

    def ban_on(self, digest: str, now_s: float) -> str | None:
        """Why this release may not be loaded now."""
        rows = self._database.rows(
            "SELECT reason FROM bans WHERE digest = ? AND (until_s IS NULL OR until_s > ? AND until_s < ? + ?)",
            digest,
            now_s,
            now_s,
            LONGEST_BAN_S,
        )
        return str(rows[0][0]) if rows else None


def _charge(db: sqlite3.Connection, spending: Spending) -> None:
    db.execute(
        "INSERT INTO spendings VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET rounds = rounds + excluded.rounds",
        (spending.noise_multiplier, spending.sample_rate, spending.rounds),
    )
