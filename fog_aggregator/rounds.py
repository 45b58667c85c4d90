"""A round as values: who is asked, what each reply does to the sum, when it is over, what comes of it.

Each device is counted at most once, and only while its round is open. A reply that comes later counts in no later
round: a device whose coin did not fall there would void that round's accounting, so its round keeps it as silent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fog_aggregator.plans import RoundOutcome, RoundPlan
from fog_aggregator.selection import unready
from learning_core.federation.privacy import ClippedSum, accumulate, clip, noisy_mean
from learning_core.federation.screening import screen
from learning_core.params import shapes_of
from learning_core.updates import Aggregate, ModelVersion
from protos.flower_records import Declined, DeviceStatus, Trained


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A reply that is not what it has to be."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """There will be no reply: the device went away, or could not make one."""

    reason: str


Answer = Trained | Declined | Unreadable | Lost


@dataclass(frozen=True, slots=True)
class Collection:
    """An open round while replies come in. `asked`: who got the train message."""

    plan: RoundPlan
    asked: frozenset[int]
    accepted: tuple[int, ...] = ()
    declined: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    silent: Mapping[int, str] = field(default_factory=dict)
    total: ClippedSum | None = None
    num_examples: int = 0
    metric_sums: Mapping[str, float] = field(default_factory=dict)

    @property
    def unanswered(self) -> frozenset[int]:
        return self.asked - {*self.accepted, *self.declined, *self.refused, *self.silent}


def begin(plan: RoundPlan, statuses: Mapping[int, DeviceStatus]) -> Collection:
    """Ask only those of the cohort who said they would train; the word of the others is their answer."""
    reasons = {node: unready(statuses.get(node), plan.base_version.release) for node in plan.cohort}
    no = {node: reason for node, reason in reasons.items() if reason is not None}
    return Collection(
        plan,
        asked=frozenset(plan.cohort) - no.keys(),
        declined={node: reason for node, reason in no.items() if node in statuses},
        silent={node: reason for node, reason in no.items() if node not in statuses},
    )


def count(collection: Collection, node: int, reply: Answer, current: ModelVersion, max_lag: int) -> Collection:
    """The round after one reply; a second one of the same device, or one nobody asked for, changes nothing."""
    plan = collection.plan
    if node not in collection.unanswered:
        return collection
    if isinstance(reply, Lost):
        return replace(collection, silent={**collection.silent, node: reply.reason})
    if isinstance(reply, Unreadable):
        return replace(collection, refused={**collection.refused, node: reply.reason})
    if reply.round != plan.number:
        return replace(collection, refused={**collection.refused, node: f"answers round {reply.round}"})
    if isinstance(reply, Declined):
        return replace(collection, declined={**collection.declined, node: reply.reason})
    update = reply.update.update
    if refusal := screen(update, shapes_of(plan.shared), current, max_lag, plan.terms.clip_norm):
        return replace(collection, refused={**collection.refused, node: refusal.value})
    clipped = clip(update, plan.terms.clip_norm)  # the device's own clipping is not taken on trust
    sums = {
        name: collection.metric_sums.get(name, 0.0) + value
        for name, value in reply.metrics.items()
        if not collection.accepted or name in collection.metric_sums  # a mean needs everybody's figure
    }
    return replace(
        collection,
        accepted=(*collection.accepted, node),
        total=accumulate(collection.total, clipped),
        num_examples=collection.num_examples + update.num_examples,
        metric_sums=sums,
    )


def is_over(collection: Collection, quorum: float) -> bool:
    """Whether enough of those asked have answered, in whatever way."""
    return len(collection.asked) - len(collection.unanswered) >= quorum * len(collection.asked)


def outcome(collection: Collection, seconds: float, epsilon: float) -> RoundOutcome:
    plan, accepted = collection.plan, collection.accepted
    return RoundOutcome(
        round=plan.number,
        base_version=plan.base_version,
        num_enrolled=len(plan.enrolled),
        cohort=plan.cohort,
        accepted=accepted,
        declined=collection.declined,
        refused=collection.refused,
        silent={**collection.silent, **dict.fromkeys(sorted(collection.unanswered), "gave no answer in time")},
        num_examples=collection.num_examples,
        metrics={name: value / len(accepted) for name, value in collection.metric_sums.items()},
        seconds=seconds,
        epsilon=epsilon,
    )


def release(collection: Collection, fog: str, rng: np.random.Generator) -> Aggregate:
    """The noised mean, which is all that leaves the fog. Charge the ledger before calling this."""
    plan = collection.plan
    delta = noisy_mean(
        collection.total,
        shapes_of(plan.shared),
        plan.terms.clip_norm,
        plan.terms.noise_multiplier,
        plan.expected_cohort,
        rng,
    )
    return Aggregate(delta, plan.expected_cohort, plan.base_version, fog, plan.number)
