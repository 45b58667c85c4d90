"""Everything that decides how a request is answered, put together: serving, appraisal and purse."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from edge_agent import calibration, status
from edge_agent.appraisal import Appraiser
from edge_agent.config import AgentSettings
from edge_agent.drivers.meter import today
from edge_agent.drivers.overhead import measure_pair
from edge_agent.drivers.sqlite_store import Database
from edge_agent.loops import Loops
from edge_agent.purse import Purse
from edge_agent.serving import Serving

LOOK_EVERY_S, NICENESS = 1.0, 10  # an appraisal can wait; whoever asks for a sample cannot
AHEAD_S = 2 * LOOK_EVERY_S


class Answers:
    """Saved as two facts: what each variant is worth here, and what answers have cost today."""

    def __init__(self, settings: AgentSettings, database: Database, headroom: Callable[[], float]) -> None:
        serving, calibrated = settings.serving, calibration.calibration_of(database.fact(calibration.FACT))
        watts = calibrated.watts_per_core or settings.limits.learner_w
        ahead_j = watts * (os.cpu_count() or 1) * AHEAD_S
        self._purse = Purse(database, serving.max_joules_per_day, ahead_j, today)
        self.serving = Serving(headroom=headroom, floor=serving.min_quality, purse=self._purse, watts=watts)
        self._appraiser = Appraiser(self.serving, database, watts, time.perf_counter, time.thread_time)

    def start(self, loops: Loops) -> None:
        """Appraise what is new, and keep the purse's book."""
        loops.start("appraise", self._appraiser.step, LOOK_EVERY_S, NICENESS)
        loops.start("purse", self._purse.look, LOOK_EVERY_S)

    def describe(self) -> dict[str, Any]:
        tree = status.describe_serving(self.serving.served, self.serving.latency())
        variants = status.describe_variants(self.serving.table(), self.serving.answers())
        tree["inference"] |= {"joules_today": self._purse.spent_j, "variants": variants}
        return tree

    def pair(self, condition: int, seed: int) -> dict[str, Any]:
        """One sample drawn by the session alone and one by the agent."""
        return asdict(measure_pair(self.serving, condition, seed))
