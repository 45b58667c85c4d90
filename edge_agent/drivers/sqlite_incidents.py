"""What healing has seen to, and what it knows: in the device's database, whole or not at all."""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.drivers.sqlite_store import Database, add_counts, put_fact
from edge_agent.healing.incident import Incident, Outcome
from edge_agent.healing.loop import State
from edge_agent.healing.saved import restore, snapshot
from learning_core.errors import Malformed

log = logging.getLogger(__name__)
KEPT = 1000
STATE, WANTED = "healing", "healing_wants"
COUNTS = "incident."
COLUMNS = ("at_s", "outcome", "causes", "signals", "tried", "sentence")


class SqliteIncidents:
    """Saved by every call."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def keep(self, state: State, incidents: Sequence[Incident]) -> None:
        """The state, and the incidents that ended with it, in one transaction."""
        with self._database.transaction() as db:
            put_fact(db, STATE, snapshot(state))
            for incident in incidents:
                self._add(db, incident)

    def state(self) -> State:
        """As it was kept last; a new one where that cannot be read."""
        tree = self._database.fact(STATE)
        if tree is None:
            return State()
        try:
            return restore(tree)
        except Malformed as error:
            log.warning("healing begins anew: %s", error)
            return State()

    def last(self, count: int) -> list[dict[str, Any]]:
        """The latest, the oldest first."""
        query = f"SELECT {', '.join(COLUMNS)} FROM incidents ORDER BY key DESC LIMIT ?"  # noqa: S608 - our own names
        return [_tree(row) for row in reversed(self._database.rows(query, count))]

    def counts(self) -> dict[str, int]:
        """How many ended how, and how many had which cause, ever."""
        counts = self._database.counts()
        return {name.removeprefix(COUNTS): n for name, n in counts.items() if name.startswith(COUNTS)}

    def want(self, conditions: Sequence[int]) -> None:
        """These are the conditions of which samples would help now, for whoever decides what is kept."""
        self._database.set_fact(WANTED, sorted(set(conditions)))

    def wanted(self) -> list[int]:
        return list(self._database.fact(WANTED) or [])

    def _add(self, db: sqlite3.Connection, incident: Incident) -> None:
        """Counted; a row too, unless re-runs found nothing."""
        names = [incident.outcome, *(f"cause.{cause}" for cause in incident.causes)]
        add_counts(db, {f"{COUNTS}{name}": 1 for name in names})
        if incident.outcome is Outcome.PASSED:
            return
        tried = [{"cause": e.cause, "remedy": e.remedy, "worked": e.worked} for e in incident.tried]
        row = (self._clock(), incident.outcome, *map(json.dumps, (incident.causes, incident.signals, tried)))
        added = db.execute(
            f"INSERT INTO incidents ({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own names
            (*row, incident.sentence),
        )
        db.execute("DELETE FROM incidents WHERE key <= ?", ((added.lastrowid or 0) - KEPT,))


def _tree(row: Sequence[Any]) -> dict[str, Any]:
    at_s, outcome, causes, signals, tried, sentence = row
    lists = {"causes": causes, "signals": signals, "tried": tried}
    return {"at_s": at_s, "outcome": outcome, **{k: json.loads(v) for k, v in lists.items()}, "sentence": sentence}
