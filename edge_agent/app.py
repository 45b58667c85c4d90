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

from edge_agent import status
from edge_agent.calibration import FACT, calibration_of
from edge_agent.config import AgentSettings
from edge_agent.drivers.answers import Answers
from edge_agent.drivers.doors import open_doors
from edge_agent.drivers.fleet_link import FleetLink
from edge_agent.drivers.fog_http import EnrolmentRefused, FogHttp, device_key, public_text, token_of
from edge_agent.drivers.forgetting import forget, resume_forgetting
from edge_agent.drivers.healing_loop import HealingLoop
from edge_agent.drivers.learner_group import open_group
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.drivers.meter import Meter, today
from edge_agent.drivers.models import Models
from edge_agent.drivers.offload_link import offload_link
from edge_agent.drivers.processor_time import ProcessorTime
from edge_agent.drivers.service_notify import ALIVE, READY, STOPPING, tell_service_manager
from edge_agent.drivers.sources import Sources
from edge_agent.drivers.sqlite_diary import SqliteDiary
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.governor import Situation
from edge_agent.loops import Loops
from edge_agent.offload import Trainers
from edge_agent.operations import governing, keeping, operations
from edge_agent.participation import Participant
from edge_agent.ports import Release
from edge_agent.selection import Forgotten, Selection
from edge_agent.session import make_client_app
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
        self._memory, self._journal = SqliteMemory(database), SqliteJournal(database)
        self._kept = self._memory.size()
        self._answers = Answers(settings, database, lambda: self._watch.decision().headroom)
        self._serving = self._answers.serving
        group = open_group(settings.telemetry.root, settings.learning.max_memory_mib)
        self._models = Models(settings, self._http, self._serving, database, group)
        undo.callback(self._models.close)
        self._upgrade = self._models.upgrade
        self._healing = HealingLoop(settings.healing, database, self._serving, self._upgrade)
        self._sources = Sources(settings, self._memory, self._release, self._healing.wanted)
        undo.callback(self._sources.close)
        self._learner = LearnerProcess(state / "learning", settings.learning, group)
        undo.callback(self._learner.close)
        self._trainers = Trainers(self._learner, offload_link(settings, self._key, self._journal, undo))
        self._diary = SqliteDiary(database, settings.limits.piece_j)
        self._calibrated = calibrated = calibration_of(database.fact(FACT))
        self._meter = Meter(self._diary, ProcessorTime(), settings.limits, calibrated.watts_per_core, group)
        telemetry = SysfsTelemetry(settings.telemetry.root, settings.telemetry.deadline_s)
        self._watch = Watch(telemetry, settings.limits, self._situation, self._turned, thermal=calibrated.model)
        self._participant = Participant(
            self._serving,
            self._memory,
            self._journal,
            self._trainers,
            self._watch.decision,
            settings.privacy,
            self._figures,
            self._upgrade,
            self._models.guard,
            settings.learning.patience_s,
        )
        app = make_client_app(self._participant)
        self._link = FleetLink(settings.fog.address, settings.fog.ca, self._key, app)

    def run(self) -> None:
        """Serve, ingest, watch and talk until `stop` is set. Raises the error that made going on impossible."""
        doors = open_doors(self._settings, self._operations())
        self._watch.look()
        loops = Loops(self.stop)
        loops.start("watch", self._look, self._settings.telemetry.interval_s)
        loops.start("books", self._count, self._settings.telemetry.interval_s)
        self._sources.start(loops)
        self._answers.start(loops)
        self._healing.start(loops)
        loops.start("release", self._renew)
        self._models.start(loops, self._memory, self._watch.decision, lambda: self._participant.at_work)
        loops.start("status", self._write_status, STATUS_EVERY_S)
        loops.start("link", self._talk)
        if self._settings.offload.enabled:
            loops.start("offload", self._look_far, self._settings.offload.look_s)
        log.info("%s runs; its state is in %s", self._settings.name, self._settings.state)
        tell_service_manager(READY)
        self.stop.wait()
        tell_service_manager(STOPPING)
        for door in doors:
            door.close()
        self._sources.close()
        self._learner.close()
        self._models.close()
        self._upgrade.news.set()
        loops.join(STOP_WITHIN_S)
        with contextlib.suppress(DewfallError):
            self._write_status()
        self.close()
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Give the state folder back."""
        with contextlib.suppress(DewfallError):
            self._upgrade.stopped()
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
            "today": status.describe_day(self._meter.spent(today())),
            "samples": status.describe_samples(counts, self._memory.size()),
            **self._sources.describe(),
            "rounds": status.describe_rounds(counts),
            "guard": self._upgrade.standing(),
            "device": status.describe_device(self._watch.telemetry, self._watch.peak_c),
            **self._answers.describe(),
            "privacy": status.describe_privacy(
                self._participant.epsilon(), privacy.max_epsilon, privacy.target_delta, rounds
            ),
            "rss_mb": {"agent": rss_mb(), "learner_peak": self._learner.peak_rss_mb},
            "learner_pid": self._learner.pid,
            "learner": status.describe_learner(self._learner.confinement, self._meter.source, self._calibrated.says),
            "bytes": {"up": sent, "down": received, "releases": self._http.received()},
            "fog": {**(self._database.fact("enrolment") or {}), "trouble": self._link.trouble},
            "offload": self._trainers.status(),
            "healing": self._healing.describe(),
        }

    def _release(self) -> Release | None:
        return served.release if (served := self._serving.served) else None

    def _situation(self) -> Situation:
        served, now = self._serving.served, datetime.datetime.now().astimezone()
        shapes, spent = served.release.manifest.adapter_shapes if served else {}, self._meter.spent(now.date())
        round_bytes = BOTH_WAYS * sum(math.prod(shape) for shape in shapes.values())
        return Situation(
            paused=self._paused,
            can_learn=self._can_learn,
            budget_left=self._participant.budget_left(),
            release=served.release.version if served else None,
            samples=self._kept,
            forced=self._forced,
            own_share=self._meter.own_pressure,
            load=self._meter.use.cores,
            learner_w=self._meter.most_w,
            spent=spent,
            round_bytes=round_bytes,
            local=now,
            rank=served.release.manifest.rank if served else None,
            can_offload=self._trainers.can_offload(self._settings.limits, spent, round_bytes),
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
        return {**figures, **self._healing.figures()}

    def _operations(self) -> Mapping[str, Any]:
        pair, most = self._answers.pair, self._settings.serving.max_count
        serving = operations(self._serving, self.status, self._set_pause, pair, most)
        memory = keeping(self._memory.newest, self._forget)
        more = {**self._sources.operations(), **self._models.operations(), **self._healing.operations()}
        return {**serving, **governing(self._force, self._diary.decisions), **memory, **more}

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
        settings = self._settings
        with self._sources.turn, self._trainers.halted(), self._models.halted(), self._participant.idle(IDLE_WITHIN_S):
            forgotten = forget(selection, settings.state, settings.spool, self._database, settings.source.conversions())
            self._models.forgotten(selection)
            self._sources.forgotten()
        log.info("%d samples were forgotten", forgotten.samples)
        return forgotten

    def _look(self) -> None:
        tell_service_manager(ALIVE)  # here: whoever hangs in a look is to be restarted, whoever fails in one is not
        self._watch.look()

    def _count(self) -> None:
        """Keep the books, apart from the watch: its looks are not to wait for the disk."""
        self._learner.rest()
        traffic = sum(self._link.traffic()) + self._http.received() + self._trainers.traffic()
        learners = (self._learner.pid, self._models.learner_pid)  # one of them may linger while the other works
        self._meter.look(learners, traffic, today(), self._watch.telemetry)
        self._kept = self._memory.size()

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

    def _look_far(self) -> None:
        self._trainers.look(self._serving.served.release if self._serving.served else None)

    def _write_status(self) -> None:
        text = json.dumps(self.status(), indent=1, allow_nan=False)
        write_atomically(self._settings.state / "status.json", text.encode())


def rss_mb() -> float:
    """Memory this process holds now, in MB (10^6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
