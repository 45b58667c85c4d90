"""Charges the day with what learning takes: energy, measured or by the learner's processor time, and the traffic."""

import datetime
from collections.abc import Iterable

from edge_agent.budget import Cost
from edge_agent.config import Limits
from edge_agent.drivers.learner_group import LearnerGroup
from edge_agent.drivers.processor_time import ProcessorTime, Use
from edge_agent.drivers.sqlite_diary import SqliteDiary
from edge_agent.energy import BUSY_CORES, Idle, settled, used, watched
from edge_agent.values import Telemetry

BYTES_AT_ONCE = 1 << 16  # traffic is written down in such pieces, not at every look: flash wears out


def today() -> datetime.date:
    """The day that is charged: the local clock's."""
    return datetime.datetime.now().astimezone().date()


class Meter:
    """Saved in the diary. What could not be written down yet is owed, and counts like what was."""

    def __init__(
        self,
        diary: SqliteDiary,
        processor: ProcessorTime,
        limits: Limits,
        calibrated_w: float | None = None,
        group: LearnerGroup | None = None,
    ) -> None:
        self._diary = diary
        self._processor = processor
        self._max_age_s = limits.max_reading_age_s
        self._rate = settled(limits.learner_w, calibrated_w)
        self._group = group or LearnerGroup()
        self._idle = Idle()
        self._owed = Cost()
        self._moved = 0
        self.use = Use()
        self.source = self._rate.source
        self.most_w = 0.0

    def look(
        self, learners: Iterable[int | None], moved: int, day: datetime.date, telemetry: Telemetry | None = None
    ) -> None:
        """Charge what these processes used since the last look, and the rise of the bytes moved so far."""
        self.use = self._processor.look(*learners)
        grown, self._moved = max(0, moved - self._moved), moved
        self._owed += Cost(self._joules(telemetry), grown)
        if self._owed.joules > 0 or self._owed.bytes >= BYTES_AT_ONCE:
            self._diary.charge(day, self._owed)
            self._owed = Cost()

    def spent(self, day: datetime.date) -> Cost:
        return self._diary.spent(day) + self._owed

    @property
    def own_pressure(self) -> float:
        """The share 0..1 of the waiting for a processor that is the learner's: its cgroup's, else its share of them."""
        pressure = self._group.pressure()
        return self.use.share if pressure is None else pressure

    def _joules(self, telemetry: Telemetry | None) -> float:
        use, passed_s = self.use, self.use.passed_s
        if telemetry is None or passed_s <= 0:
            return use.core_s * self._rate.watts
        if use.core_s < BUSY_CORES * passed_s:
            self._idle = watched(self._idle, telemetry.power_w, self._max_age_s)
            return use.core_s * self._rate.watts
        taken = used(telemetry.power_w, self._idle, self._max_age_s, use.core_s, passed_s, self._rate)
        self.source, self.most_w = taken.source, max(self.most_w, taken.joules / passed_s)
        return taken.joules
