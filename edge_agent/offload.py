"""Whether a fit may go to the fog, with which samples, and who does it. Pure but for the trainers it chooses from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from edge_agent.budget import Cost
from edge_agent.config import Limits, Offload, Privacy
from edge_agent.ports import Job, Release, Trainer
from edge_agent.values import Action, Decision, Fitted, NotFitted
from learning_core.federation.accountant import Spending, epsilon
from learning_core.federation.local_noise import cost, noise_deviation
from protos.offload_jobs import Kind, Offer

# Families whose adapters can be learned from samples that were noised on the device, and the largest deviation of the
# noise on values in -1..1 under which some dozens of samples taught a good part (measured: docs/offload.md). A noised
# image is a latent of the flow. Texts are whole numbers: there is no noise to learn under.
MOST_NOISE = {"flow_image": 2.0}
LEARNING = frozenset({Action.TRAIN, Action.OFFLOAD})


class Stoppable(Trainer, Protocol):
    """A trainer that can be made to give up its job and to forget the samples in it."""

    def halted(self) -> AbstractContextManager[None]: ...


class FarTrainer(Stoppable, Protocol):
    """The fog as a trainer, as far as was known a moment ago. `trouble`: why it would not take a job, or ""."""

    trouble: str

    @property
    def ready(self) -> bool:
        """Whether it would take a job and this device may give it one."""
        ...

    @property
    def job_bytes(self) -> int:
        """The most that a job would move, both ways."""
        ...

    def look(self, release: Release | None) -> None:
        """Find out again, for this release."""
        ...

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        ...


class Trainers:
    """The learner at hand and the one at the fog; the decision says which. Nothing is saved."""

    def __init__(self, near: Stoppable, far: FarTrainer | None) -> None:
        self._near = near
        self._far = far

    def can_offload(self, limits: Limits, spent: Cost, round_bytes: int) -> bool:
        """Whether the fog would take a job, and what it moves fits into the day."""
        if self._far is None or not self._far.ready:
            return False
        most = limits.max_bytes_per_day
        return most is None or spent.bytes + round_bytes + self._far.job_bytes <= most

    def fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted:
        """By whom it is begun, by that one it is ended or given up."""
        if decision().action is not Action.OFFLOAD:
            return self._near.fit(job, decision)
        if self._far is None:
            return NotFitted("this device may not offload; set offload.enabled to let the fog learn in its place")
        return self._far.fit(job, decision)

    def look(self, release: Release | None) -> None:
        if self._far is not None:
            self._far.look(release)

    def traffic(self) -> int:
        """Bytes moved for offloading, both ways."""
        return 0 if self._far is None else sum(self._far.traffic())

    def status(self) -> dict[str, Any]:
        """What there is to say of offloading, as JSON."""
        if self._far is None:
            return {"enabled": False}
        return {"enabled": True, "ready": self._far.ready, "trouble": self._far.trouble}

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Inside, nobody learns and no file of a job is in use."""
        with ExitStack() as stack:
            for trainer in (self._near, self._far):
                if trainer is not None:
                    stack.enter_context(trainer.halted())
            yield


def kind_for(family: str, offer: Offer, settings: Offload) -> Kind | str:
    """Which samples may go and are wanted, or why none can, in a sentence."""
    if not offer.kinds:
        return f"the fog does not learn for devices now: {offer.reason or 'it gave no reason'}"
    if settings.allow_raw_offload and Kind.RAW in offer.kinds:
        return Kind.RAW
    if Kind.LATENTS not in offer.kinds:
        return "the fog learns from raw samples only, and those may not leave this device"
    if family not in MOST_NOISE:
        return f"{family} cannot be learned from noised samples, and raw ones may not leave this device"
    deviation = noise_deviation(settings.clip_norm, settings.noise_multiplier)
    if deviation > MOST_NOISE[family]:
        return (
            f"noise of {deviation:.3g} on each value leaves too little for {family} to learn from "
            f"({MOST_NOISE[family]:g} at most), so the device waits; docs/offload.md says what less noise costs"
        )
    return Kind.LATENTS


def affordable(wanted: int, noise_multiplier: float, spendings: Sequence[Spending], privacy: Privacy) -> int:
    """How many of `wanted` samples may still be noised and sent, 0..wanted, with the budget that `spendings` leave."""
    low, high = 0, wanted
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon([*spendings, cost(middle, noise_multiplier)], privacy.target_delta) <= privacy.max_epsilon:
            low = middle
        else:
            high = middle - 1
    return low
