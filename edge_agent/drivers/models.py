"""Everything that decides which model is served, put together: releases, slots, guard, trials, the personal adapter."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from edge_agent.config import AgentSettings
from edge_agent.drivers.fog_http import FogHttp
from edge_agent.drivers.learner_group import LearnerGroup
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.guard import Guard
from edge_agent.loops import Loops
from edge_agent.operations import Operation, going_back
from edge_agent.personal import Personal
from edge_agent.ports import Memory
from edge_agent.selection import Everything, Selection
from edge_agent.serving import Serving
from edge_agent.trial import Trial
from edge_agent.upgrade import Upgrade
from edge_agent.values import Decision
from learning_core.errors import DewfallError

JOBS = "personal"  # the folder of the personal adapter's learner
TRIAL_EVERY_S, PERSONAL_EVERY_S, NICENESS = 1.0, 5.0, 10


class Models:
    """Saved as the releases' folders, the slots, and the personal learner's checkpoint."""

    def __init__(
        self, settings: AgentSettings, http: FogHttp, serving: Serving, database: Database, group: LearnerGroup
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._journal = SqliteJournal(database)
        release_key = bytes.fromhex(settings.fog.release_key)
        shelf = ReleaseClient(http, settings.state / "releases", release_key, self._journal)
        self.guard = Guard()
        self.upgrade = Upgrade(shelf, serving, SqliteSlots(database))
        self._learner = LearnerProcess(settings.state / JOBS, settings.learning, group)
        self._at_it = threading.Lock()  # held while samples are in a personal job's hands

    @property
    def learner_pid(self) -> int | None:
        """Of a process that learns a personal adapter."""
        return self._learner.pid

    def start(
        self, loops: Loops, memory: Memory, decision: Callable[[], Decision], at_work: Callable[[], bool]
    ) -> None:
        """Attend to trials and, if a person wants one, to a personal adapter. `at_work`: a round is being worked on."""
        trial = Trial(self._serving, self.upgrade, self.guard, self._settings.trials)
        loops.start("trial", trial.step, TRIAL_EVERY_S, NICENESS)
        if self._settings.learning.personal:
            least = self._settings.limits.min_samples
            parts = (self._serving, memory, self._journal, self._learner, self.upgrade, self.guard)
            personal = Personal(*parts, decision, at_work, least)
            loops.start("personal", lambda: self._learn(personal), PERSONAL_EVERY_S, NICENESS)

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Inside, nothing personal is learned and nobody holds samples for it."""
        with self._learner.halted(), self._at_it:
            yield

    def forgotten(self, selection: Selection) -> None:
        """When all samples were, what was learned from them for this device alone goes with them."""
        if isinstance(selection, Everything):
            with contextlib.suppress(DewfallError):
                self.upgrade.drop_personal()

    def operations(self) -> Mapping[str, Operation]:
        return going_back(self.upgrade.roll_back, self.upgrade.drop_personal, self.upgrade.lift)

    def close(self) -> None:
        self._learner.close()

    def _learn(self, personal: Personal) -> None:
        with self._at_it:
            personal.step()
        self._learner.rest()
