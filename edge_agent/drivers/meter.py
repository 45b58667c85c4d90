"""Charges the day with what learning takes: the learner's processor time as energy, and the traffic with the fog."""

import datetime

from edge_agent.budget import Cost
from edge_agent.drivers.processor_time import ProcessorTime, Use
from edge_agent.drivers.sqlite_diary import SqliteDiary

BYTES_AT_ONCE = 1 << 16  # traffic is written down in such pieces, not at every look: flash wears out


class Meter:
    """Saved in the diary. What could not be written down yet is owed, and counts like what was."""

    def __init__(self, diary: SqliteDiary, processor: ProcessorTime, learner_w: float) -> None:
        self._diary = diary
        self._processor = processor
        self._learner_w = learner_w
        self._owed = Cost()
        self._moved = 0
        self.use = Use()

    def look(self, pid: int | None, moved: int, day: datetime.date) -> None:
        """Charge what the learner `pid` used since the last look, and the rise of the bytes moved so far."""
        self.use = self._processor.look(pid)
        grown, self._moved = max(0, moved - self._moved), moved
        self._owed += Cost(self.use.core_s * self._learner_w, grown)
        if self._owed.joules > 0 or self._owed.bytes >= BYTES_AT_ONCE:
            self._diary.charge(day, self._owed)
            self._owed = Cost()

    def spent(self, day: datetime.date) -> Cost:
        return self._diary.spent(day) + self._owed
