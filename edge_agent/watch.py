"""Looks at the device again and again and says what it may do; what it cannot see, it does not allow."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.config import Limits
from edge_agent.forecast import Course, followed, prospect
from edge_agent.governor import Situation, decide
from edge_agent.ports import TelemetrySource
from edge_agent.thermal_model import ThermalModel
from edge_agent.values import Action, Decision, Quality, Reason, Telemetry

REMEMBERED = 100


@dataclass(frozen=True, slots=True)
class Turn:
    """A moment at which the decision changed; `at_s` in epoch seconds."""

    at_s: float
    decision: Decision


class Watch:
    """The latest look at the device and the latest decision. Nothing is saved here: `on_turn` may save."""

    def __init__(
        self,
        source: TelemetrySource,
        limits: Limits,
        situation: Callable[[], Situation],
        on_turn: Callable[[Decision], None],
        clock: Callable[[], float] = time.monotonic,
        thermal: ThermalModel | None = None,
    ) -> None:
        self._source = source
        self._limits = limits
        self._situation = situation
        self._on_turn = on_turn
        self._clock = clock
        self._thermal = thermal
        self._turn = threading.Lock()
        self._decision: Decision | None = None
        self._looked_s = self._turned_s = -float("inf")
        self._course = Course()
        self.telemetry: Telemetry | None = None
        self.peak_c: float | None = None
        self.turns: deque[Turn] = deque(maxlen=REMEMBERED)

    def look(self) -> Decision:
        """Read the device and decide."""
        with self._turn:
            telemetry, now_s = self._source.read(), self._clock()
            decision = decide(telemetry, self._limits, self._seen(telemetry, now_s), self._decision)
            self.telemetry, self._looked_s = telemetry, now_s
            temperature = telemetry.soc_temp_c
            if temperature.is_known(self._limits.max_reading_age_s):
                self.peak_c = max(temperature.value, self.peak_c if self.peak_c is not None else temperature.value)
            before, self._decision = self._decision, decision  # first: it holds even if nobody can write it down
            if before is not None and decision.action is not before.action:
                self._turned_s = now_s
            if before is None or (decision.action, decision.reason) != (before.action, before.reason):
                self.turns.append(Turn(time.time(), decision))
                self._on_turn(decision)
            return decision

    def decision(self) -> Decision:
        """The latest decision, unless the last look is too long ago to rely on."""
        age_s = self._clock() - self._looked_s
        if self._decision is None or age_s > self._limits.max_reading_age_s:
            sentence = "the device has not been looked at for too long"
            return Decision(Action.WAIT, Reason.HEAT_UNKNOWN, sentence, headroom=0.0)
        return self._decision

    def _seen(self, telemetry: Telemetry, now_s: float) -> Situation:
        """The situation, with what only looking again and again can tell: the trend, and how long ago we turned."""
        chip, situation, window_s = telemetry.soc_temp_c, self._situation(), self._limits.trend_s
        temp_c = chip.value if chip.quality is Quality.OK else None  # a stale one says nothing about how it moves
        self._course = followed(self._course, self._thermal, now_s, temp_c, situation.load, window_s)
        trend = prospect(self._course, self._thermal, window_s)
        return replace(situation, trend=trend, dwelt_s=now_s - self._turned_s)
