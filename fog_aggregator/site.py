"""The life of a site: look who is ready, toss coins, collect, charge, release, settle, again and again.

Everything that must survive a kill is in the journal before the next step begins, so this loop starts anywhere: an
open round is collected again with the same cohort and number, a closed one only waits for the cloud.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fog_aggregator import ledger, rounds
from fog_aggregator.config import Rounds
from fog_aggregator.plans import Budget, RoundOutcome, RoundPlan, Terms
from fog_aggregator.ports import Clock, Fleet, Journal, Reply
from fog_aggregator.selection import num_ready, sample, unready
from learning_core.errors import Malformed
from learning_core.params import shapes_of
from learning_core.updates import ModelVersion
from protos.flower_records import (
    QUERY_STATUS,
    TRAIN,
    DeviceStatus,
    StatusQuery,
    TrainRequest,
    decode_device_status,
    decode_train_reply,
    encode_status_query,
    encode_train_request,
)

_FIRST_PAUSE_S = 0.2
_LOOK_S = 0.5  # how long to wait for replies or news before looking whether to stop


@dataclass(frozen=True, slots=True)
class Site:
    """What a site needs to run. `fresh_rng` gives a generator with a new secret seed at each call."""

    name: str
    terms: Terms
    budget: Budget
    pace: Rounds
    journal: Journal
    fleet: Fleet
    clock: Clock
    fresh_rng: Callable[[], np.random.Generator]
    stopping: Callable[[], bool]
    reached: Callable[[str], None]  # told the name of each step that is done; fault tests stop the process there
    held_back: Callable[[], str]  # why no round may begin now; "" when one may


@dataclass(frozen=True, slots=True)
class Idle:
    """No round now, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A round began; `again` when it had begun before this process started."""

    plan: RoundPlan
    again: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """A round ended and its aggregate is in the outbox."""

    outcome: RoundOutcome


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A round ended without a release, and nobody was counted."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The shared adapter moved on after a round: through the cloud, or here alone while the cloud was silent."""

    round: int
    version: ModelVersion
    by_cloud: bool


Event = Idle | Opened | Closed | Abandoned | Settled


def live(site: Site) -> Iterator[Event]:
    """Run rounds until told to stop, and say what happened."""
    pause_s = _FIRST_PAUSE_S
    while not site.stopping():
        for event in turn(site):
            yield event
            if isinstance(event, Idle):
                _rest(site, pause_s)
                pause_s = min(2 * pause_s, site.pace.idle_pause_s)
            else:
                pause_s = _FIRST_PAUSE_S
        if pause_s == _FIRST_PAUSE_S and site.pace.round_pause_s:
            site.clock.wait(site.pace.round_pause_s)


def _rest(site: Site, seconds: float) -> None:
    """Wait, but not on when there is news or a device has come online."""
    online, until_s = site.fleet.online(), site.clock.now_s() + seconds
    while not site.stopping() and (left_s := until_s - site.clock.now_s()) > 0:
        slice_ends_s = site.clock.now_s() + min(left_s, _LOOK_S)
        site.clock.wait(min(left_s, _LOOK_S))
        if site.clock.now_s() < slice_ends_s - 1e-3 or site.fleet.online() - online:
            return


def turn(site: Site) -> Iterator[Event]:
    """One round from wherever the journal stands, or the reason why there is none now."""
    journal = site.journal
    if (waiting := journal.unsettled()) is not None:
        yield from _settle(site, waiting)
        return
    if (plan := journal.opened()) is not None:
        yield Opened(plan, again=True)
        statuses = _statuses_again(site, plan)
    else:
        if reason := _obstacle(site):
            yield Idle(reason)
            return
        statuses = _statuses(site, journal.enrolled())
        if (plan := _plan(site, statuses)) is None:
            yield Idle(_why_nobody(site, statuses))
            return
        journal.open_round(plan)
        site.reached("round.opened")
        yield Opened(plan, again=False)
    yield from _run(site, plan, statuses)
    if (waiting := journal.unsettled()) is not None and not site.stopping():
        yield from _settle(site, waiting)


def _obstacle(site: Site) -> str | None:
    if reason := "no release is mirrored yet" if site.journal.base() is None else site.held_back():
        return reason
    enrolled = site.journal.enrolled()
    if len(enrolled) < site.pace.min_devices:
        return f"{len(enrolled)} of at least {site.pace.min_devices} devices are enrolled"
    if spent := ledger.over_budget(site.journal.histories(), enrolled, site.terms, site.budget):
        return (
            f"the privacy budget is spent: one more round would take {len(spent)} devices"
            f" past epsilon {site.budget.max_epsilon:g}"
        )
    return None


def _plan(site: Site, statuses: Mapping[int, DeviceStatus]) -> RoundPlan | None:
    base, enrolled = site.journal.base(), site.journal.enrolled()
    if base is None or num_ready(statuses, base.version.release) < site.pace.min_ready:
        return None
    cohort = sample(enrolled, site.terms.sample_rate, site.fresh_rng())
    return RoundPlan(site.journal.next_round(), base.version, base.shared, enrolled, cohort, site.terms)


def _why_nobody(site: Site, statuses: Mapping[int, DeviceStatus]) -> str:
    base = site.journal.base()
    release = base.version.release if base else 0
    reasons = Counter(unready(statuses.get(node), release) or "ready" for node in site.journal.enrolled())
    listed = ", ".join(f"{times} {reason}" for reason, times in sorted(reasons.items(), key=str))
    return f"too few devices are ready ({listed})"


def _statuses(site: Site, enrolled: Sequence[int]) -> dict[int, DeviceStatus]:
    """What the devices that are online say of themselves before the deadline; who says nonsense says nothing."""
    base = site.journal.base()
    query = StatusQuery(site.name, base.version.release if base else 0, base.manifest_sha256 if base else "")
    content = encode_status_query(query)
    asked = dict.fromkeys(site.fleet.online() & set(enrolled), content)
    deadline_s = site.pace.status_deadline_s
    sent = site.fleet.push(QUERY_STATUS, asked, deadline_s) if asked else {}
    found: dict[int, DeviceStatus] = {}
    for reply in _replies(site, sent, deadline_s):
        if reply.content is not None and sent.get(reply.message_id) == reply.node_id:
            try:
                found[reply.node_id] = decode_device_status(reply.content)
            except Malformed:
                continue
    return found


def _statuses_again(site: Site, plan: RoundPlan) -> dict[int, DeviceStatus]:
    """After a restart: give the cohort time to find this fog again before its silence counts."""
    give_up_s = site.clock.now_s() + site.pace.deadline_s
    while True:
        patience_s = site.clock.now_s() + site.pace.status_deadline_s
        while not site.fleet.online().issuperset(plan.cohort) and site.clock.now_s() < patience_s:
            if site.stopping():
                return {}
            site.clock.wait(_FIRST_PAUSE_S)
        statuses = _statuses(site, plan.enrolled)
        ready = [node for node in plan.cohort if unready(statuses.get(node), plan.base_version.release) is None]
        if ready or not plan.cohort or site.stopping() or site.clock.now_s() >= give_up_s:
            return statuses
        if _same_release(site, plan) is None:
            return statuses


def _run(site: Site, plan: RoundPlan, statuses: Mapping[int, DeviceStatus]) -> Iterator[Closed | Abandoned]:
    """Collect an open round and release its aggregate: the ledger is charged, on disk, before the noise is drawn."""
    began_s = site.clock.now_s()
    collection = rounds.begin(plan, statuses)
    content = encode_train_request(_request(site, plan))
    sent = site.fleet.push(TRAIN, dict.fromkeys(collection.asked, content), site.pace.deadline_s)
    site.reached("round.asked")
    current: ModelVersion | None = plan.base_version
    for reply in _replies(site, sent, site.pace.deadline_s):
        if (current := _same_release(site, plan)) is None:
            break
        if sent.get(reply.message_id) == reply.node_id:
            collection = rounds.count(collection, reply.node_id, _read(reply, plan), current, site.pace.max_lag)
            site.reached("round.answered")
        if rounds.is_over(collection, site.pace.quorum):
            break
    if site.stopping():
        return  # it stays open, for the next start
    if current is None or _same_release(site, plan) is None:
        reason = "a new release came while devices were training on the old one"
        site.journal.abandon_round(plan.number, reason)
        yield Abandoned(plan.number, reason)
        return
    site.reached("round.collected")
    site.journal.charge(plan)
    site.reached("round.charged")
    spent = ledger.highest(site.journal.histories(), plan.enrolled, site.budget.target_delta)
    outcome = rounds.outcome(collection, site.clock.now_s() - began_s, spent)
    aggregate = rounds.release(collection, site.name, site.fresh_rng())
    site.reached("round.noised")
    site.journal.close_round(outcome, aggregate)
    site.reached("round.closed")
    yield Closed(outcome)


def _settle(site: Site, number: int) -> Iterator[Settled]:
    """Wait for the cloud to fold the round into a new shared version; without it, go on with the fog's own."""
    journal, give_up_s = site.journal, site.clock.now_s() + site.pace.patience_s
    while journal.unsettled() == number:
        if site.stopping():
            return
        if (left_s := give_up_s - site.clock.now_s()) <= 0:
            journal.settle_locally(number)
            site.reached("round.settled")
            if base := journal.base():
                yield Settled(number, base.version, by_cloud=False)
            return
        site.clock.wait(min(left_s, _LOOK_S))
    if base := journal.base():
        yield Settled(number, base.version, by_cloud=True)


def _replies(site: Site, sent: Mapping[str, int], wait_s: float) -> Iterator[Reply]:
    """Replies as they come, until all are there, the time is over, or the process is to stop."""
    missing, deadline_s = set(sent), site.clock.now_s() + wait_s
    while missing and not site.stopping():
        if (left_s := deadline_s - site.clock.now_s()) <= 0:
            return
        for reply in site.fleet.pull(missing, min(left_s, _LOOK_S)):
            if reply.message_id in missing:
                missing.discard(reply.message_id)
                yield reply


def _same_release(site: Site, plan: RoundPlan) -> ModelVersion | None:
    base = site.journal.base()
    return base.version if base and base.version.release == plan.base_version.release else None


def _request(site: Site, plan: RoundPlan) -> TrainRequest:
    return TrainRequest(
        fog=site.name,
        round=plan.number,
        base_version=plan.base_version,
        shared=plan.shared,
        clip_norm=plan.terms.clip_norm,
        noise_multiplier=plan.terms.noise_multiplier,
        sample_rate=plan.terms.sample_rate,
        deadline_s=site.pace.deadline_s,
    )


def _read(reply: Reply, plan: RoundPlan) -> rounds.Answer:
    if reply.content is None:
        return rounds.Lost(reply.error or "sent an error instead of an answer")
    try:
        return decode_train_reply(reply.content, shapes_of(plan.shared))
    except Malformed as error:
        return rounds.Unreadable(f"malformed: {error}")
