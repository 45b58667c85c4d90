"""What answers may cost in a day: counted as they are given, and written down a little ahead of that."""

import datetime
import math
import threading
from collections.abc import Callable

from edge_agent.ports import Facts

FACT = "serving_joules"
DAYS_KEPT = 7


class Purse:
    """Saved as one fact at every look, ahead by `ahead_j`: what all cores can use up until the next look.

    So a kill never gives a day's energy back. A day is found by its date: a clock set back finds what it has cost.
    """

    def __init__(
        self, facts: Facts, max_joules: float | None, ahead_j: float, today: Callable[[], datetime.date]
    ) -> None:
        self._facts = facts
        self._max_joules = max_joules
        self._ahead_j = ahead_j
        self._today = today
        self._turn = threading.Lock()
        self._days: dict[str, float] = dict(facts.fact(FACT) or {})
        self._day = today().isoformat()
        self._spent_j = self._days.get(self._day, 0.0)

    @property
    def spent_j(self) -> float:
        """Today, or what was booked ahead of a kill."""
        return self._spent_j

    def left(self) -> float:
        """What answers may still cost today, infinite without a cap."""
        return math.inf if self._max_joules is None else self._max_joules - self._spent_j

    def spend(self, joules: float) -> None:
        with self._turn:
            self._spent_j += joules

    def look(self) -> None:
        """Turn the page at midnight and write down what is spent, if there is a cap to keep and it has grown."""
        day = self._today().isoformat()
        with self._turn:
            if day != self._day:
                self._days[self._day] = self._spent_j
                self._day, self._spent_j = day, self._days.get(day, 0.0)
            spent_j = self._spent_j
        if self._max_joules is None or spent_j + self._ahead_j / 2 <= self._days.get(day, 0.0):
            return
        others = {date: joules for date, joules in self._days.items() if date != day}
        self._days = {**dict(list(others.items())[1 - DAYS_KEPT :]), day: spent_j + self._ahead_j}  # the newest last
        self._facts.set_fact(FACT, self._days)
