"""The agent, put together: what it is made of, which threads it has, and how it starts and stops."""

import contextlib
import datetime
import importlib.util
import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import status
from edge_agent.config import AgentSettings
from edge_agent.drivers.control_socket import ControlSocket
from edge_agent.drivers.fleet_link import FleetLink
from edge_agent.drivers.fog_http import EnrolmentRefused, FogHttp, device_key, public_text, token_of
from edge_agent.drivers.forgetting import forget, resume_forgetting
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.drivers.meter import Meter
from edge_agent.drivers.overhead import measure_pair
from edge_agent.drivers.processor_time import ProcessorTime
from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.service_notify import ALIVE, READY, STOPPING, tell_service_manager
from edge_agent.drivers.spool_source import SpoolSource
from edge_agent.drivers.sqlite_diary import SqliteDiary
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.governor import Situation
from edge_agent.ingest import take_in
from edge_agent.loops import Loops
from edge_agent.operations import governing, keeping, operations
from edge_agent.participation import Participant
from edge_agent.selection import Forgotten, Selection
from edge_agent.serving import Serving
from edge_agent.session import make_client_app
from edge_agent.upgrade import Upgrade
from edge_agent.values import Decision
from edge_agent.watch import Watch
from learning_core.errors import ConfigError, DewfallError
from protos.state_folder import StateFolder, write_atomically

log = logging.getLogger(__name__)
STATUS_EVERY_S = 5.0
STOP_WITHIN_S = 3.5
IDLE_WITHIN_S = 60.0  # a learner that is to stop does so at once; a check of what it learned takes longer
ASK_EVERY_S = 3.0  # for a first release, while there is none
BOTH_WAYS = 2 * 4  # bytes a round moves for each parameter: float32, to the device and back
INGEST_NICENESS = 10  # samples can wait; whoever asks for one cannot


class Agent:
    """One device's agent. Saved in its state folder; every thread may be killed at any moment."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self.stop = threading.Event()
        self.failure: DewfallError | None = None
        self._began_s = time.time()
        with contextlib.ExitStack() as undo:
            undo.enter_context(StateFolder.open(settings.state))
            self._database = Database(settings.state / "agent.db")
            undo.callback(self._database.close)
            resume_forgetting(self._database)
            self._build(settings, undo)
            self._upgrade.restore()
            self._undo = undo.pop_all()

    def _build(self, settings: AgentSettings, undo: contextlib.ExitStack) -> None:
        database, state = self._database, settings.state
        self._paused, self._forced = bool(database.fact("paused")), False
        self._can_learn = importlib.util.find_spec("torch") is not None  # looked for, never loaded here
        self._key = device_key(state / "device.pem")
        self._http = FogHttp(settings.fog.address, settings.fog.ca)
        undo.callback(self._http.close)
        self._intake = threading.Lock()  # held while samples come in or go
        self._memory, self._journal = SqliteMemory(database), SqliteJournal(database)
        self._source = SpoolSource(settings.spool, settings.source.max_file_bytes)
        self._serving = Serving()
        release_key = bytes.fromhex(settings.fog.release_key)
        shelf = ReleaseClient(self._http, state / "releases", release_key, self._journal)
        self._upgrade = Upgrade(shelf, self._serving, database)
        self._learner = LearnerProcess(state / "learning", settings.learning)
        undo.callback(self._learner.close)
        self._diary = SqliteDiary(database, settings.limits.piece_j)
        self._meter = Meter(self._diary, ProcessorTime(), settings.limits.learner_w)
        telemetry = SysfsTelemetry(settings.telemetry.root, settings.telemetry.deadline_s)
        self._watch = Watch(telemetry, settings.limits, self._situation, self._turned)
        self._participant = Participant(
            self._serving,
            self._memory,
            self._journal,
            self._learner,
            self._watch.decision,
            settings.privacy,
            self._figures,
            self._upgrade.announce,
            self._upgrade.adopt,
            settings.learning.patience_s,
        )
        app = make_client_app(self._participant)
        self._link = FleetLink(settings.fog.address, settings.fog.ca, self._key, app)

    def run(self) -> None:
        """Serve, ingest, watch and talk until `stop` is set. Raises the error that made going on impossible."""
        door = ControlSocket(self._settings.socket, self._operations())
        self._watch.look()
        source = self._settings.source
        loops = Loops(self.stop)
        loops.start("watch", self._look, self._settings.telemetry.interval_s)
        loops.start("ingest", self._ingest, source.interval_s, INGEST_NICENESS)
        loops.start("release", self._renew)
        loops.start("status", self._write_status, STATUS_EVERY_S)
        loops.start("link", self._talk)
        log.info("%s runs; its state is in %s", self._settings.name, self._settings.state)
        tell_service_manager(READY)
        self.stop.wait()
        tell_service_manager(STOPPING)
        door.close()
        self._learner.close()
        self._upgrade.news.set()
        loops.join(STOP_WITHIN_S)
        with contextlib.suppress(DewfallError):
            self._write_status()
        self.close()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Give the state folder back."""
        self._undo.close()

    def enroll(self) -> Mapping[str, str]:
        """Let the fog know this device's key; what it already knows is not asked again. Raises DewfallError."""
        known = self._database.fact("enrolment")
        if known and known["address"] == self._settings.fog.address:
            return dict(known)
        node_id, fog = self._http.enroll(token_of(self._settings.fog), self._settings.name, public_text(self._key))
        enrolment = {"address": self._settings.fog.address, "node_id": node_id, "fog": fog}
        self._database.set_fact("enrolment", enrolment)
        log.info("enrolled at %s as node %s", fog, node_id)
        return enrolment

    def status(self) -> dict[str, Any]:
        """Everything there is to say, as JSON."""
        counts, privacy, (sent, received) = self._database.counts(), self._settings.privacy, self._link.traffic()
        rounds = sum(each.rounds for each in self._journal.spendings())
        return {
            "name": self._settings.name,
            "pid": os.getpid(),
            "uptime_s": time.time() - self._began_s,
            "paused": self._paused,
            "forced": self._forced,
            "decisions": status.describe_decisions(counts, self._watch.decision(), list(self._watch.turns)),
            "today": status.describe_day(self._meter.spent(_today())),
            "samples": status.describe_samples(counts, self._memory.size()),
            "rounds": status.describe_rounds(counts),
            "device": status.describe_device(self._watch.telemetry, self._watch.peak_c),
            **status.describe_serving(self._serving.served, self._serving.latency()),
            "privacy": status.describe_privacy(
                self._participant.epsilon(), privacy.max_epsilon, privacy.target_delta, rounds
            ),
            "rss_mb": {"agent": rss_mb(), "learner_peak": self._learner.peak_rss_mb},
            "learner_pid": self._learner.pid,
            "bytes": {"up": sent, "down": received, "releases": self._http.received()},
            "fog": {**(self._database.fact("enrolment") or {}), "trouble": self._link.trouble},
        }

    def _situation(self) -> Situation:
        served, now = self._serving.served, datetime.datetime.now().astimezone()
        shapes = served.release.manifest.adapter_shapes if served else {}
        return Situation(
            paused=self._paused,
            can_learn=self._can_learn,
            budget_left=self._participant.budget_left(),
            release=served.release.version if served else None,
            samples=self._memory.size(),
            forced=self._forced,
            own_share=self._meter.use.share,
            spent=self._meter.spent(now.date()),
            round_bytes=BOTH_WAYS * sum(math.prod(shape) for shape in shapes.values()),
            local=now,
        )

    def _turned(self, decision: Decision) -> None:
        told = {"action": decision.action, "reason": decision.reason, "sentence": decision.sentence}
        log.info("decision %s", json.dumps(told, ensure_ascii=False))
        self._diary.decided(time.time(), decision, f"{status.DECISIONS}{decision.action}.{decision.reason}")

    def _figures(self) -> dict[str, float]:
        counts, telemetry = self._database.counts(), self._watch.telemetry
        figures = {name: float(counts.get(name, 0)) for name in ("seen", "kept", "dropped", "trained")}
        if telemetry is not None and telemetry.soc_temp_c.is_known(self._settings.limits.max_reading_age_s):
            figures["soc_temp_c"] = telemetry.soc_temp_c.value
        return figures

    def _operations(self) -> Mapping[str, Any]:
        def pair(condition: int, seed: int) -> Mapping[str, float]:
            took = measure_pair(self._serving, condition, seed)
            return {"bare_ms": took.bare_ms, "agent_ms": took.agent_ms}

        serving = operations(self._serving, self.status, self._set_pause, pair, self._settings.serving.max_count)
        memory = keeping(self._memory.newest, self._forget)
        return {**serving, **governing(self._force, self._diary.decisions), **memory}

    def _set_pause(self, value: bool) -> None:
        self._database.set_fact("paused", value)
        self._paused, self._forced = value, False
        self._watch.look()

    def _force(self) -> None:
        """Until `resume`, `pause` or a restart: nobody is to find a device forced years later."""
        self._set_pause(False)
        self._forced = True
        self._watch.look()

    def _forget(self, selection: Selection) -> Forgotten:
        with self._intake, self._learner.halted(), self._participant.idle(IDLE_WITHIN_S):
            forgotten = forget(selection, self._settings.state, self._settings.spool, self._database)
        log.info("%d samples were forgotten", forgotten.samples)
        return forgotten

    def _look(self) -> None:
        tell_service_manager(ALIVE)  # here: whoever hangs in a look is to be restarted, whoever fails in one is not
        self._watch.look()
        self._learner.rest()
        self._meter.look(self._learner.pid, sum(self._link.traffic()) + self._http.received(), _today())

    def _ingest(self) -> None:
        memory = self._settings.memory
        rng = np.random.default_rng()
        while not self.stop.is_set() and (served := self._serving.served) is not None:
            with self._intake:
                taken = take_in(self._source, self._memory, served.release, memory.rule(), memory.max_bytes, rng)
            if taken is None:
                return

    def _renew(self) -> None:
        if self._serving.served is None and (latest := self._http.latest()) is not None:
            self._upgrade.announce(*latest)
        if self._upgrade.news.wait(ASK_EVERY_S) and not self.stop.is_set():
            self._upgrade.step()

    def _talk(self) -> None:
        try:
            self.enroll()
        except (EnrolmentRefused, ConfigError) as error:
            self.failure = error
            self.stop.set()
            return
        self._link.run(self.stop)

    def _write_status(self) -> None:
        text = json.dumps(self.status(), indent=1, allow_nan=False)
        write_atomically(self._settings.state / "status.json", text.encode())


def _today() -> datetime.date:
    return datetime.datetime.now().astimezone().date()


def rss_mb() -> float:
    """Memory this process holds now, in MB (10^6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
