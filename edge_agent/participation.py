"""One device's part in a round: asked, it decides, learns, checks what it learned, pays, and only then answers."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from edge_agent.adapters import Worn, inputs_of
from edge_agent.config import Privacy
from edge_agent.guard import Accept, Guard, RollBack
from edge_agent.offload import LEARNING
from edge_agent.ports import Job, Journal, Memory, Release, Trainer
from edge_agent.serving import Served, Serving
from edge_agent.values import Answer, Decision, Fitted, NotFitted, Shape
from learning_core.errors import DewfallError
from learning_core.federation.accountant import Spending, epsilon
from learning_core.federation.privacy import clip
from learning_core.params import Params, Shapes, subtract
from learning_core.samples import Batch
from learning_core.updates import Update
from protos.flower_records import Declined, DeviceStatus, StatusQuery, Trained, TrainRequest

log = logging.getLogger(__name__)
MARGIN = 0.9  # of a round's deadline may go into training; the rest is for checking and sending
MAX_REASON = 200


class Candidates(Protocol):
    """Where what is new goes: releases that a fog tells of, and adapters that were learned here."""

    def announce(self, version: int, digest: str) -> str | None: ...

    def adopt(self, release: Release, adapter: Params) -> bool:
        """Serve a checked one on trial, and whether it is."""
        ...

    def refuse(self, adapter: Params, reason: str) -> None:
        """Never serve this one."""
        ...


class Participant:
    """Answers a fog. Saved as the journal: an update, its charge and the fact that the round was answered are one."""

    def __init__(
        self,
        serving: Serving,
        memory: Memory,
        journal: Journal,
        trainer: Trainer,
        decision: Callable[[], Decision],
        privacy: Privacy,
        figures: Callable[[], Mapping[str, float]],
        candidates: Candidates,
        guard: Guard,
        patience_s: float,
    ) -> None:
        self._serving = serving
        self._memory = memory
        self._journal = journal
        self._trainer = trainer
        self._decision = decision
        self._privacy = privacy
        self._figures = figures
        self._candidates = candidates
        self._guard = guard
        self._patience_s = patience_s
        self._turn = threading.Lock()
        self._at_work: tuple[str, int] | None = None
        spendings = journal.spendings()
        self._usual: Spending | None = spendings[-1] if spendings else None
        self._account(spendings)

    def status(self, query: StatusQuery) -> DeviceStatus:
        """How the device is; the query says what the newest release is."""
        news = self._candidates.announce(query.latest_release, query.manifest_sha256)
        decision, served = self._decision(), self._serving.served
        ready, reason = decision.action in LEARNING, f"{decision.reason}: {decision.sentence}"
        if at_work := self._at_work:
            ready, reason = False, f"busy: training for round {at_work[1]} of {at_work[0]}"
        elif ready and news:
            ready, reason = False, f"release: {news}"
        release = served.release.version if served else 0
        return DeviceStatus(ready, _short(reason), release, self._memory.size(), self._figures())

    def adapter_shapes(self) -> Shapes:
        served = self._serving.served
        return served.release.manifest.adapter_shapes if served else {}

    def train(self, request: TrainRequest) -> Trained | Declined:
        """Learn for a round, or say why not. The same round asked twice gets the same answer and costs once."""
        key = (request.fog, request.round)
        patience_s = request.deadline_s if self._at_work == key else min(self._patience_s, request.deadline_s)
        if not self._turn.acquire(timeout=patience_s):
            return self._decline(request, "busy", "training for another round has not ended")
        try:
            if (sent := self._journal.answer(*key)) is not None:
                return Trained(request.round, sent.update, sent.metrics)
            if self._journal.answered(*key):
                return self._decline(request, "answered", "this round was answered long ago")
            self._at_work = key
            return self._train(request)
        finally:
            self._at_work = None
            self._turn.release()

    @contextmanager
    def idle(self, timeout_s: float) -> Iterator[None]:
        """Inside, nothing is learned and nobody holds samples to learn from. Raises DewfallError."""
        if not self._turn.acquire(timeout=timeout_s):
            raise DewfallError(f"training did not end within {timeout_s:g} s; ask again when it has")
        try:
            yield
        finally:
            self._turn.release()

    @property
    def at_work(self) -> bool:
        """Whether a round is being worked on."""
        return self._at_work is not None

    def budget_left(self) -> bool:
        """Whether one more round like the last would still be within the budget."""
        return self._after_next <= self._privacy.max_epsilon

    def epsilon(self) -> float:
        """What has been spent so far, counted as if everybody knew in which rounds this device took part."""
        return self._spent

    def _train(self, request: TrainRequest) -> Trained | Declined:
        served = self._serving.served
        if served is None or served.release.version != request.base_version.release:
            serves = served.release.version if served else "none"
            text = f"the round is about release {request.base_version.release}, this device serves {serves}"
            return self._decline(request, "release", text)
        # The device cannot vouch for the fog's coins, so it charges itself as if it had been sure to take part.
        spending = Spending(request.noise_multiplier, 1.0, 1)
        self._usual = spending
        spendings = self._journal.spendings()
        self._account(spendings)
        if not self.budget_left():
            text = f"epsilon would be {self._after_next:.3g}, more than this device's {self._privacy.max_epsilon:g}"
            return self._decline(request, "budget", text)
        if (decision := self._decision()).action not in LEARNING:
            return self._decline(request, decision.reason, decision.sentence)
        return self._learn(request, served, spending, decision.shape)

    def _learn(self, request: TrainRequest, served: Served, spending: Spending, shape: Shape) -> Trained | Declined:
        release = served.release
        samples, newest = self._memory.samples()
        name = f"{request.fog}-{request.round}-{request.base_version}"
        within_s = request.deadline_s * MARGIN
        job = Job(name, release, request.shared, request.base_version, samples, within_s, shape, (spending,))
        fitted = self._trainer.fit(job, self._decision)
        self._account(self._journal.spendings())  # learning elsewhere may have been charged for, also in vain
        if isinstance(fitted, NotFitted):
            return self._decline(request, "stopped", fitted.reason)
        self._memory.mark_trained(newest)
        if (refused := self._refused(request, release, fitted.adapter, samples)) is not None:
            return refused
        if self._serving.served is None or self._serving.served.release.digest != release.digest:
            return self._decline(request, "release", "another release came while this device was training")
        return self._send(request, fitted, len(samples), release, spending)

    def _send(
        self, request: TrainRequest, fitted: Fitted, num_examples: int, release: Release, spending: Spending
    ) -> Trained:
        self._candidates.adopt(release, fitted.adapter)
        update = Update(subtract(fitted.adapter, request.shared), num_examples, request.base_version)
        metrics = {"train_seconds": fitted.seconds, "train_steps": float(fitted.steps)}
        answer = Answer(clip(update, request.clip_norm), metrics)
        self._journal.record(request.fog, request.round, answer, spending)
        self._account(self._journal.spendings())
        log.info("round %d of %s: trained on %d samples", request.round, request.fog, num_examples)
        return Trained(request.round, answer.update, answer.metrics)

    def _refused(self, request: TrainRequest, release: Release, adapter: Params, samples: Batch) -> Declined | None:
        """Why a candidate is neither served nor sent, None when it is.

        The figures are of this device's samples, and nobody clips, noises or charges a sentence: it stays here.
        """
        inputs = inputs_of(release, Worn(shared=adapter))
        checked = self._guard.check(release, inputs, samples)
        if isinstance(checked, Accept):
            return None
        reasons = "; ".join(checked.reasons)
        if isinstance(checked, RollBack):
            self._candidates.refuse(adapter, reasons)
            self._journal.tally("rolled_back")
            return self._decline(request, "golden", reasons, told="")
        return self._decline(request, "held", reasons, told="")

    def _decline(self, request: TrainRequest, reason: str, sentence: str, told: str | None = None) -> Declined:
        """The sentence is for the log here, and for the fog where it is told nothing else."""
        log.info("round %d of %s declined: %s: %s", request.round, request.fog, reason, sentence)
        self._journal.tally(f"declined.{reason}")
        told = sentence if told is None else told
        return Declined(request.round, _short(f"{reason}: {told}" if told else reason))

    def _account(self, spendings: list[Spending]) -> None:
        delta = self._privacy.target_delta
        self._spent = epsilon(spendings, delta)
        self._after_next = epsilon([*spendings, self._usual], delta) if self._usual else self._spent


def _short(text: str) -> str:
    """What fits into a record: one line of printable characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:MAX_REASON]
