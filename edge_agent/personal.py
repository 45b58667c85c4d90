"""The personal adapter: learned from this device's samples when nothing else is to be learned, and never sent anywhere.

A change on top of the shared adapter, on the same frozen factors: fine-tuning what the fleet agreed on is the baseline
that personalising has to beat (Cheng et al. 2021, arXiv:2108.07313). It is guarded together with what is below it,
and again whenever that changes.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from edge_agent.adapters import Worn, inputs_of
from edge_agent.guard import Accept, Guard, Hold, RollBack, Verdict
from edge_agent.ports import Job, Journal, Memory, Release, Trainer
from edge_agent.serving import Serving
from edge_agent.slots import below
from edge_agent.upgrade import Upgrade
from edge_agent.values import Action, Decision, NotFitted, Reason
from learning_core.params import Params, add, digest, subtract, zeros
from learning_core.samples import Batch
from learning_core.updates import ModelVersion

log = logging.getLogger(__name__)
DEADLINE_S = 3600.0  # no round waits for it
AGAIN_S = 600.0  # after one was held, which may be the device's fault, it is checked again
A_ROUND = Decision(Action.WAIT, Reason.DWELL, "a round of the fleet comes first")


class _Seen(NamedTuple):
    """What there was to learn, and on top of what: a release and the name of a shared adapter."""

    release: str
    shared: str
    newest: int = 0


class Personal:
    """Saved as the trainer's checkpoint and, once it is served, in the slots of `Upgrade`."""

    def __init__(
        self,
        serving: Serving,
        memory: Memory,
        journal: Journal,
        trainer: Trainer,
        upgrade: Upgrade,
        guard: Guard,
        decision: Callable[[], Decision],
        at_work: Callable[[], bool],
        min_new: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serving = serving
        self._memory = memory
        self._journal = journal
        self._trainer = trainer
        self._upgrade = upgrade
        self._guard = guard
        self._decide = decision
        self._at_work = at_work
        self._min_new = min_new
        self._clock = clock
        self._seen = _Seen("", "")
        self._held: tuple[_Seen, float] = _Seen("", ""), -math.inf  # on what one was held last, and when

    def step(self) -> None:
        """Learn once from what is new, or prove what was learned on a shared adapter that is.

        Whether there is anything to do is told from names and keys: adapters and samples stay on the disk until then.
        """
        served = self._serving.served
        if served is None or self._decision().action is not Action.TRAIN:
            return
        release = served.release
        shared, personal = self._upgrade.named(release)
        here = _Seen(release.digest, shared)
        unproven = bool(personal) and below(personal) != shared
        if unproven and not self._is_held(here):
            self._prove(release, here)
        elif self._has_enough(here):
            self._learn(release, here)

    def _prove(self, release: Release, here: _Seen) -> None:
        """See whether what was learned on top of another shared adapter may be served on this one too."""
        worn, personal = self._upgrade.worn(release)
        if personal is None:  # its file is gone
            self._upgrade.drop_personal()
            return
        match self._checked(release, Worn(worn.shared, personal), self._memory.samples()[0]):
            case Accept():
                self._upgrade.adopt_personal(release, personal, _name(worn.shared))
            case Hold():
                self._held = here, self._clock()
            case RollBack():
                self._upgrade.drop_personal()

    def _is_held(self, here: _Seen) -> bool:
        where, at_s = self._held
        return where == here and self._clock() - at_s < AGAIN_S

    def _has_enough(self, here: _Seen) -> bool:
        if self._memory.size() < self._min_new:
            return False
        return self._seen[:2] != here[:2] or self._memory.newest_key() - self._seen.newest >= self._min_new

    def _learn(self, release: Release, here: _Seen) -> None:
        seen = here._replace(newest=self._memory.newest_key())
        worn, _ = self._upgrade.worn(release)
        shared: Params = worn.shared if worn.shared is not None else zeros(release.manifest.adapter_shapes)
        samples, newest = self._memory.samples()
        start = add(shared, worn.personal) if worn.personal is not None else shared
        name = f"personal-{release.version}-{digest(shared)[:16]}-{newest}"
        job = Job(name, release, start, ModelVersion(release.version), samples, DEADLINE_S, self._decision().shape)
        fitted = self._trainer.fit(job, self._decision)
        if isinstance(fitted, NotFitted):
            log.info("the personal adapter waits: %s", fitted.reason)
            return
        self._seen = seen
        personal = subtract(fitted.adapter, shared)
        checked = self._checked(release, Worn(worn.shared, personal), samples)
        if isinstance(checked, Accept) and self._upgrade.adopt_personal(release, personal, _name(worn.shared)):
            self._journal.tally("personal.learned")

    def _checked(self, release: Release, worn: Worn, samples: Batch) -> Verdict:
        checked = self._guard.check(release, inputs_of(release, worn), samples)
        if not isinstance(checked, Accept):
            log.info("a personal adapter is not served: %s", "; ".join(checked.reasons))
            self._journal.tally("personal.rolled_back" if isinstance(checked, RollBack) else "personal.held")
        return checked

    def _decision(self) -> Decision:
        return A_ROUND if self._at_work() else self._decide()


def _name(shared: Params | None) -> str:
    """Of a shared adapter, as in the slots."""
    return digest(shared) if shared is not None else ""
