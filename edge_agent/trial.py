"""What is on trial is looked at from aside: its answers, its speed, and its golden set when nobody asks for anything.

In a thread of its own, over answers that were given anyway: no request waits for it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np

from edge_agent.adapters import Worn, inputs_of
from edge_agent.config import Trials
from edge_agent.examination import pace_of
from edge_agent.guard import Accept, Guard, RollBack, Verdict
from edge_agent.healed_engine import student_of
from edge_agent.serving import Answered, Serving
from edge_agent.slots import RELEASE, SHARED, OnTrial
from edge_agent.upgrade import Upgrade
from learning_core.errors import DewfallError

log = logging.getLogger(__name__)
PATIENCE = 3  # bad looks in a row before what only may be bad is


class Sign(Enum):
    """What its answers say of something on trial."""

    NOTHING_YET = "nothing yet"
    ENOUGH = "enough"  # answers, all of them finite
    QUIET = "quiet"  # too few are asked for
    NOT_FINITE = "not finite"


def sign_of(answers: Sequence[Answered], waited_s: float, settings: Trials) -> Sign:
    """From the answers given since what is served changed last; the trial began `waited_s` ago."""
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
        self._doubts: dict[OnTrial, int] = {}  # how often in a row it looked bad

    def step(self) -> None:
        """One look at each thing on trial, until one of them is left: then something else answers."""
        trials, recent = self._upgrade.trials(), self._serving.recent()
        self._doubts = {trial: looks for trial, looks in self._doubts.items() if trial in trials}
        for trial in trials:
            found: Verdict | str | None
            answers = [each for each in recent if each.at_s > trial.unchanged_s]
            match sign_of(answers, self._clock() - trial.since_s, self._settings):
                case Sign.NOTHING_YET:
                    continue
                case Sign.NOT_FINITE:
                    self._end(trial, "it answered with numbers that are not finite", ban=True)
                    return
                case Sign.ENOUGH:
                    found = self._slow(trial)
                case Sign.QUIET:
                    found = self._checked(trial)
            if self._is_left(trial, found):
                return

    def _is_left(self, trial: OnTrial, found: Verdict | str | None) -> bool:
        """Whether it is on trial no more for what was found: harm, or for several looks in a row what may be chance."""
        if isinstance(found, RollBack):
            self._end(trial, "; ".join(found.reasons), ban=True)
            return True
        if found is None or isinstance(found, Accept):
            self._upgrade.pass_trial(trial)
            return False
        self._doubts[trial] = self._doubts.get(trial, 0) + 1
        if self._doubts[trial] < PATIENCE:
            return False
        self._end(trial, found if isinstance(found, str) else "; ".join(found.reasons), ban=False)
        return True

    def _end(self, trial: OnTrial, reason: str, *, ban: bool) -> None:
        try:
            self._upgrade.end_trial(trial, f"on trial, {reason}", ban=ban)
        except DewfallError as error:
            log.error("what is on trial cannot be left: %s", error)

    def _slow(self, trial: OnTrial) -> str | None:
        served = self._serving.served
        if served is None or trial.kind == RELEASE:
            return None  # a release has no engine without itself to be timed against
        pace = pace_of(student_of(served.engine), served.release, self._clock)
        slow = f"it took {pace.slowdown:.2f} times as long as without an adapter, more than {pace.bound:.2f}"
        return None if pace.slowdown <= pace.bound else slow

    def _checked(self, trial: OnTrial) -> Verdict | None:
        """On the golden set, with what is below it alone: what is above it has a trial of its own."""
        served = self._serving.served
        if served is None:
            return None
        release = served.release
        if trial.kind == RELEASE:
            return self._guard.check_base(release)
        worn, _ = self._upgrade.worn(release)
        below = Worn(worn.shared) if trial.kind == SHARED else worn
        return self._guard.check(release, inputs_of(release, below))
