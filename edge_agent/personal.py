"""The personal adapter: learned from this device's samples when nothing else is to be learned, and never sent anywhere.

A change on top of the shared adapter, on the same frozen factors: fine-tuning what the fleet agreed on is the baseline
that personalising has to beat (Cheng et al. 2021, arXiv:2108.07313). It is guarded together with what is below it,
and again whenever that changes.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from edge_agent.adapters import Worn, inputs_of
from edge_agent.guard import Accept, Guard, RollBack, Verdict
from edge_agent.ports import Job, Journal, Memory, Release, Trainer
from edge_agent.serving import Serving
from edge_agent.upgrade import Upgrade
from edge_agent.values import Action, Decision, NotFitted, Reason
from learning_core.params import Params, add, digest, subtract, zeros
from learning_core.updates import ModelVersion

log = logging.getLogger(__name__)
DEADLINE_S = 3600.0  # no round waits for it
A_ROUND = Decision(Action.WAIT, Reason.DWELL, "a round of the fleet comes first")


class _Seen(NamedTuple):
    """What there was to learn, and on top of what."""

    release: str
    shared: str
    newest: int


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
        self._seen: _Seen | None = None

    def step(self) -> None:
        """Learn once from what is new, or prove what was learned on a shared adapter that is."""
        served = self._serving.served
        if served is None or self._decision().action is not Action.TRAIN:
            return
        release = served.release
        worn, personal = self._upgrade.worn(release)
        if personal is not None and worn.personal is None:
            if isinstance(self._checked(release, Worn(worn.shared, personal)), Accept):
                self._upgrade.adopt_personal(release, personal)
                return
            self._upgrade.drop_personal()
        self._learn(release, worn)

    def _learn(self, release: Release, worn: Worn) -> None:
        shapes = release.manifest.adapter_shapes
        shared: Params = worn.shared if worn.shared is not None else zeros(shapes)
        samples, newest = self._memory.samples()
        seen, before = _Seen(release.digest, digest(shared), newest), self._seen
        is_known = before is not None and before[:2] == seen[:2]
        if len(samples) < self._min_new or (is_known and before is not None and newest - before.newest < self._min_new):
            return
        start = add(shared, worn.personal) if worn.personal is not None else shared
        name = f"personal-{release.version}-{seen.shared[:16]}-{newest}"
        job = Job(name, release, start, ModelVersion(release.version), samples, DEADLINE_S, self._decision().shape)
        fitted = self._trainer.fit(job, self._decision)
        if isinstance(fitted, NotFitted):
            log.info("the personal adapter waits: %s", fitted.reason)
            return
        self._seen = seen
        personal = subtract(fitted.adapter, shared)
        if isinstance(self._checked(release, Worn(worn.shared, personal)), Accept):
            self._upgrade.adopt_personal(release, personal)
            self._journal.tally("personal.learned")

    def _checked(self, release: Release, worn: Worn) -> Verdict:
        checked = self._guard.check(release, inputs_of(release, worn), self._memory.samples()[0])
        if not isinstance(checked, Accept):
            log.info("a personal adapter is not served: %s", "; ".join(checked.reasons))
            self._journal.tally("personal.rolled_back" if isinstance(checked, RollBack) else "personal.held")
        return checked

    def _decision(self) -> Decision:
        return A_ROUND if self._at_work() else self._decide()
