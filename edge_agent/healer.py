"""Carries out what the healing loop wants, in a thread of its own: looks, re-runs, remedies, and what came of them."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from edge_agent.hands import Hands, Standing
from edge_agent.healing.diagnosis import Cause
from edge_agent.healing.incident import Incident
from edge_agent.healing.loop import Apply, Approved, Done, Exchanged, News, Rerun, Rules, State, Step, Ticked, heal
from edge_agent.healing.playbook import Remedy
from edge_agent.healing.signals import observe
from edge_agent.reruns import Approval, approve, evidence, heal_outputs, look, poor_conditions
from edge_agent.serving import Answered
from learning_core.errors import DewfallError

log = logging.getLogger(__name__)
MOST_STEPS = 24  # in one tick; the loop's own caps end it sooner
KEEP_EVERY = 20  # ticks without anything to tell
Keep = Callable[[State, Sequence[Incident]], None]


class Healer:
    """One device's healing. Saved by `keep`: before every remedy, with every incident, and now and then."""

    def __init__(
        self,
        hands: Hands,
        rules: Rules,
        state: State,
        rng: np.random.Generator,
        keep: Keep,
        approval: Approval | None = None,
    ) -> None:
        self.state = state
        self.approval = approval
        self._hands = hands
        self._rules = rules
        self._rng = rng
        self._keep = keep
        self._seen_s = -np.inf
        self._told_of = ""  # the identity of what the last evidence is about

    def tick(self) -> list[Incident]:
        """Look once, and see to what is wrong. The incidents that ended. Raises DewfallError; then the case stays."""
        standing = self._standing()
        if standing is None or self.approval is None:
            return []
        if self.state.identity != standing.identity:
            self.state = heal(self.state, Approved(standing.identity), self._rules).state
            self._hands.ask_for_data(())  # what the one before lacked says nothing of this one
        seen = look(self._hands, standing, self.approval, self._fresh())
        values = observe(seen, self.approval.reference, self._rng)
        incidents = self._see_to(Ticked(values))
        if incidents or self.state.tick % KEEP_EVERY == 0:
            self._keep(self.state, incidents)
        return incidents

    def _see_to(self, news: News) -> list[Incident]:
        """Take steps until nothing more is wanted."""
        incidents = []
        for _ in range(MOST_STEPS):
            step = heal(self.state, news, self._rules)
            self.state = step.state
            if step.incident is not None:
                incidents.append(step.incident)
            if step.wanted is None:
                break
            news = self._carried_out(step)
        return incidents

    def _carried_out(self, step: Step) -> News:
        standing = self._standing()
        if standing is None or self.approval is None:
            raise DewfallError("nothing is served any more; healing goes on when something is")
        match step.wanted:
            case Apply(remedy, cause):
                if cause is not None and standing.identity != self._told_of:
                    return Exchanged()
                self._keep(self.state, ())
                return Done(self._apply(remedy, cause, standing, self.approval))
            case Rerun() | None:
                self._told_of = standing.identity
                return evidence(self._hands, standing, self.approval)

    def _apply(self, remedy: Remedy, cause: Cause | None, standing: Standing, approval: Approval) -> bool:
        """Whether it could be done."""
        try:
            match remedy:
                case Remedy.REVERIFY:
                    self._hands.reverify()
                case Remedy.RESTORE_SAMPLER:
                    self._hands.restore_sampler()
                case Remedy.CHEAPER:
                    self._hands.prefer_cheaper()
                case Remedy.USUAL:
                    self._hands.prefer_usual()
                case Remedy.ROLL_BACK:
                    self._hands.roll_back(f"healing found: {cause}", standing.identity)
                case Remedy.ASK_FOR_DATA:
                    self._hands.ask_for_data(self._poor(standing, approval))
                case Remedy.CACHE:
                    return self._answer_from_healed(cause, standing, approval)
        except DewfallError as error:
            log.warning("%s could not be done: %s", remedy, error)
            return False
        return True

    def _answer_from_healed(self, cause: Cause | None, standing: Standing, approval: Approval) -> bool:
        everything = tuple(range(standing.num_conditions))
        wanted = self._poor(standing, approval) if cause is Cause.INPUT else everything
        outputs = heal_outputs(self._hands, standing, approval, wanted)
        if outputs is None:
            return False
        self._hands.answer_from(outputs, standing.identity)
        return True

    def _poor(self, standing: Standing, approval: Approval) -> tuple[int, ...]:
        return poor_conditions(self._hands, standing, approval, self._rules.margins.poor)

    def _standing(self) -> Standing | None:
        """What is served, and approved if it was exchanged on purpose; in the middle of a case, the device is as slow
        as the case found it, so what was usual before still is.
        """
        standing = self._hands.standing()
        if standing is not None and (self.approval is None or self.approval.identity != standing.identity):
            usual = self.approval.pass_ms if self.approval is not None and self.state.case is not None else {}
            self.approval = approve(self._hands, standing, usual)
        return standing

    def _fresh(self) -> list[Answered]:
        """Answers to others since the last look."""
        fresh = [each for each in self._hands.recent() if each.at_s > self._seen_s]
        if fresh:
            self._seen_s = fresh[-1].at_s
        return fresh
