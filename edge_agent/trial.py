"""What is on trial is looked at from aside: its answers, its speed, and its golden set when nobody asks for anything.

In a thread of its own, over answers that were given anyway: no request waits for it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from edge_agent.adapters import inputs_of
from edge_agent.config import Trials
from edge_agent.examination import pace_of
from edge_agent.guard import Accept, Guard, RollBack
from edge_agent.serving import Answered, Serving
from edge_agent.slots import RELEASE
from edge_agent.upgrade import OnTrial, Upgrade
from learning_core.errors import DewfallError

log = logging.getLogger(__name__)
PATIENCE = 3  # bad looks in a row before what only may be bad is


class Sign(Enum):
    """What its answers say of something on trial."""

    NOTHING_YET = "nothing yet"
    ENOUGH = "enough"  # answers, all of them finite
    QUIET = "quiet"  # too few are asked for
    NOT_FINITE = "not finite"


@dataclass(frozen=True, slots=True)
class Doubts:
    """How often in a row one thing on trial looked bad."""

    trial: OnTrial
    looks: int = 0


def sign_of(answers: Sequence[Answered], waited_s: float, settings: Trials) -> Sign:
    """From the answers given since the trial began, `waited_s` ago."""
    if not all(np.isfinite(each.samples).all() for each in answers):
        return Sign.NOT_FINITE
    if len(answers) >= settings.answers:
        return Sign.ENOUGH
    return Sign.QUIET if waited_s >= settings.quiet_s else Sign.NOTHING_YET


class Trial:
    """Ends trials, one way or the other. Nothing is saved: a trial that was broken off by a restart begins again."""

    def __init__(
        self,
        serving: Serving,
        upgrade: Upgrade,
        guard: Guard,
        settings: Trials,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._serving = serving
        self._upgrade = upgrade
        self._guard = guard
        self._settings = settings
        self._clock = clock
        self._doubts: Doubts | None = None

    def step(self) -> None:
        """One look at what is on trial, if anything is."""
        trial = self._upgrade.on_trial()
        if trial is None:
            return
        answers = [each for each in self._serving.recent() if each.at_s > trial.since_s]
        match sign_of(answers, self._clock() - trial.since_s, self._settings):
            case Sign.NOTHING_YET:
                return
            case Sign.NOT_FINITE:
                self._end(trial, "it answered with numbers that are not finite")
            case Sign.ENOUGH:
                self._weigh(trial, self._slow(trial))
            case Sign.QUIET:
                self._weigh(trial, self._harmful(trial))

    def _weigh(self, trial: OnTrial, against: str | None) -> None:
        """A single bad look may be the fault of the device's other work."""
        if against is None:
            self._upgrade.pass_trial(trial)
            return
        before = self._doubts.looks if self._doubts is not None and self._doubts.trial == trial else 0
        self._doubts = Doubts(trial, before + 1)
        if self._doubts.looks >= PATIENCE:
            self._end(trial, against)

    def _end(self, trial: OnTrial, reason: str) -> None:
        if self._upgrade.on_trial() == trial:
            try:
                self._upgrade.roll_back(f"on trial, {reason}", trial.kind)
            except DewfallError as error:
                log.error("what is on trial cannot be left: %s", error)

    def _slow(self, trial: OnTrial) -> str | None:
        served = self._serving.served
        if served is None or trial.kind == RELEASE:
            return None  # a release has no engine without itself to be timed against
        pace = pace_of(served.engine, trial.release, self._clock)
        slow = f"it took {pace.slowdown:.2f} times as long as without an adapter, more than {pace.bound:.2f}"
        return None if pace.slowdown <= pace.bound else slow

    def _harmful(self, trial: OnTrial) -> str | None:
        worn, _ = self._upgrade.worn(trial.release)
        checked = self._guard.check(trial.release, inputs_of(trial.release, worn))
        if isinstance(checked, Accept):
            return None
        if isinstance(checked, RollBack):
            self._end(trial, "; ".join(checked.reasons))
        return "; ".join(checked.reasons)
