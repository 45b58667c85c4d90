"""Calibrates this device: a core kept busy by a child at the learner's priority, and the result kept in the state."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from typing import Any

from edge_agent.calibration import FACT, Plan, measure, record_of, refusal_of
from edge_agent.config import AgentSettings
from edge_agent.drivers.child import end
from edge_agent.drivers.processor_time import ProcessorTime
from edge_agent.drivers.sqlite_store import Database
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.thermal_fit import NoFit, fit
from protos.state_folder import StateFolder


class BusyCore:
    """The learner's program, which works without learning. Saves nothing; the child ends with us."""

    def __init__(self, max_memory_mib: int, nice: bool) -> None:
        options = ["--busy", *(["--nice"] * nice)]
        self._command = [sys.executable, "-m", "edge_agent.learner", str(max_memory_mib), *options]
        self._child: subprocess.Popen[bytes] | None = None
        self._time = ProcessorTime()

    def start(self) -> None:
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            end(child)

    def busy_s(self) -> float:
        return self._time.look(self._child.pid if self._child else None).core_s


def calibrate(settings: AgentSettings, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure, fit and store; what was stored. Raises DewfallError, and then what was stored before stays.

    The state is locked meanwhile: an agent that runs would learn and answer beside it.
    """
    telemetry = SysfsTelemetry(settings.telemetry.root, settings.telemetry.deadline_s)
    load = BusyCore(settings.learning.max_memory_mib, settings.learning.scheduling == "nice")
    with StateFolder.open(settings.state), closing(Database(settings.state / "agent.db")) as database:
        began_s = time.time()
        measured = measure(plan, settings.limits, telemetry.read, load, time.monotonic, time.sleep, tell)
        outcome = fit(measured.samples)
        if isinstance(outcome, NoFit):
            raise refusal_of(outcome, measured)
        record = record_of(
            measured,
            outcome,
            {
                "at_s": began_s,
                "plan_s": {"idle": plan.idle_s, "load": plan.load_s, "cool": plan.cool_s},
                "kernel": platform.release(),
                "machine": platform.machine(),
                "dewfall": metadata.version("dewfall"),
            },
        )
        database.set_fact(FACT, record)
        return record
