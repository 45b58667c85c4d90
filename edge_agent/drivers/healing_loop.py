"""Healing on a device, put together: what it sees and does, what it keeps, how often it looks, and what it tells."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.config import HealingSettings
from edge_agent.drivers.serving_hands import Models, ServingHands
from edge_agent.drivers.sqlite_incidents import SqliteIncidents
from edge_agent.drivers.sqlite_store import Database
from edge_agent.healer import Healer
from edge_agent.healing.incident import Incident, Outcome
from edge_agent.healing.loop import Caps, Rules, resumed
from edge_agent.loops import Loops
from edge_agent.operations import Operation, looking_back
from edge_agent.serving import Serving

log = logging.getLogger(__name__)
NICENESS = 15  # whoever asks for a sample comes first, and so does learning
MOST_OF_A_CORE = 0.005


class HealingLoop:
    """Saved by `SqliteIncidents`."""

    def __init__(self, settings: HealingSettings, database: Database, serving: Serving, models: Models) -> None:
        self._settings = settings
        self._incidents = SqliteIncidents(database)
        caps = Caps(
            per_case=settings.max_remedies_per_incident,
            per_remedy=settings.max_uses_per_day,
            ticks=max(1, round(86400 / settings.tick_s)),
        )
        self._healer = Healer(
            ServingHands(serving, models, self._incidents.want),
            Rules(caps=caps, off=frozenset(settings.off)),
            resumed(self._incidents.state()),
            np.random.default_rng(),
            self._incidents.keep,
        )
        self._pacer = Pacer(settings.tick_s, MOST_OF_A_CORE)

    def start(self, loops: Loops) -> None:
        """Look in a thread of its own, unless a person does not want that."""
        if self._settings.enabled:
            loops.start("heal", self._step, min(1.0, self._settings.tick_s), NICENESS)

    def operations(self) -> dict[str, Operation]:
        return looking_back(self._incidents.last, self._incidents.counts)

    def describe(self) -> dict[str, Any]:
        """Counts for the status; what the fog is told is among them."""
        return {
            "enabled": self._settings.enabled,
            "incidents": self._incidents.counts(),
            "wants_samples_of": self.wanted(),
        }

    def wanted(self) -> list[int]:
        """Conditions of which samples would help."""
        return self._incidents.wanted()

    def figures(self) -> Mapping[str, float]:
        """Counts alone, for the fog."""
        counts = self._incidents.counts()
        return {f"incidents_{name}": float(counts.get(name, 0)) for name in (Outcome.HEALED, Outcome.GAVE_UP)}

    def _step(self) -> None:
        if self._pacer.is_due():
            with self._pacer:
                incidents = self._healer.tick()
            _tell(incidents)


class Pacer:
    """When to do something again: after so many seconds, and later if it would take more than a share of a core."""

    def __init__(
        self,
        every_s: float,
        most: float,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._every_s = every_s
        self._most = most
        self._clock = clock
        self._cpu = cpu
        self._next_s = clock() + every_s
        self._began = (0.0, 0.0)

    def is_due(self) -> bool:
        return self._clock() >= self._next_s

    def __enter__(self) -> None:
        self._began = (self._clock(), self._cpu())

    def __exit__(self, *_: object) -> None:
        began_s, began_cpu_s = self._began
        used_s = self._cpu() - began_cpu_s
        self._next_s = began_s + max(self._every_s, used_s / self._most)


def _tell(incidents: Sequence[Incident]) -> None:
    for incident in incidents:
        level = logging.WARNING if incident.outcome in {Outcome.HEALED, Outcome.GAVE_UP} else logging.INFO
        log.log(level, "incident, %s: %s", incident.outcome, incident.sentence)
