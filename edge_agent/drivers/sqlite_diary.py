"""What a person may want to look up: which decisions there were, and what each day has cost."""

import datetime
import threading
from typing import Any

from edge_agent.budget import Cost, ahead
from edge_agent.drivers.sqlite_store import Database, add_counts
from edge_agent.values import Decision

DECISIONS_KEPT = 10_000
DAYS_KEPT = 62


class SqliteDiary:
    """Decisions and days. Saved at every call; only the energy booked ahead is in memory, and lost at the end.

    A day is found by its date, so a clock that is set back finds what that day has already cost.
    """

    def __init__(self, database: Database, piece_j: float) -> None:
        self._database = database
        self._piece_j = piece_j
        self._turn = threading.Lock()
        self._credit: tuple[datetime.date | None, float] = (None, 0.0)
        self._latest: tuple[datetime.date | None, Cost] = (None, Cost())  # what was asked for or charged last

    def decided(self, at_s: float, decision: Decision, tally: str) -> None:
        """One more decision at `at_s` (epoch seconds), counted under `tally`."""
        with self._database.transaction() as db:
            row = (at_s, decision.action, decision.reason, decision.sentence)
            added = db.execute("INSERT INTO decisions (at_s, action, reason, sentence) VALUES (?, ?, ?, ?)", row)
            db.execute("DELETE FROM decisions WHERE key <= ?", ((added.lastrowid or 0) - DECISIONS_KEPT,))
            add_counts(db, {tally: 1})

    def decisions(self, count: int) -> list[dict[str, Any]]:
        """The last `count`, the oldest first."""
        rows = self._database.rows(
            "SELECT at_s, action, reason, sentence FROM decisions ORDER BY key DESC LIMIT ?", count
        )
        return [dict(zip(("at_s", "action", "reason", "sentence"), row, strict=True)) for row in reversed(rows)]

    def spent(self, day: datetime.date) -> Cost:
        """Does not wait for the disk but for the first time on a day."""
        latest, cost = self._latest
        if latest != day:
            rows = self._database.rows("SELECT joules, bytes FROM days WHERE day = ?", day.isoformat())
            cost = Cost(*rows[0]) if rows else Cost()
            self._latest = (day, cost)
        return cost

    def charge(self, day: datetime.date, cost: Cost) -> None:
        """Put a cost on a day; energy as it is used up, booked a piece ahead."""
        with self._turn:
            credit_j = self._credit[1] if self._credit[0] == day else 0.0
            booked, credit_j = ahead(Cost(bytes=cost.bytes), credit_j, cost.joules, self._piece_j)
            if booked != Cost():
                known = self.spent(day)
                with self._database.transaction() as db:
                    db.execute(
                        "INSERT INTO days VALUES (?, ?, ?) ON CONFLICT (day)"
                        " DO UPDATE SET joules = joules + excluded.joules, bytes = bytes + excluded.bytes",
                        (day.isoformat(), booked.joules, booked.bytes),
                    )
                    db.execute(
                        "DELETE FROM days WHERE day != ?"  # today's never: a clock that starts in 1970 has caps too
                        " AND day NOT IN (SELECT day FROM days ORDER BY day DESC LIMIT ?)",
                        (day.isoformat(), DAYS_KEPT),
                    )
                self._latest = (day, known + booked)
            self._credit = (day, credit_j)
