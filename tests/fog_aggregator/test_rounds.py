"""The round as a state machine over values: no journal, no fleet, no clock."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_aggregator.plans import RoundPlan, Terms
from fog_aggregator.rounds import Lost, Unreadable, begin, count, is_over, outcome, release
from learning_core.federation.privacy import clip
from learning_core.params import norm
from learning_core.updates import ClippedUpdate, ModelVersion, Update
from protos.flower_records import Declined, DeviceStatus, Trained

BASE = ModelVersion(1, 3)
SHARED = {"w": np.zeros(4, np.float32)}
READY = DeviceStatus(True, "", 1, 9, {})
NODES = (1, 2, 3, 4)


def plan(cohort=NODES, noise=0.0, rate=0.5):
    return RoundPlan(7, BASE, SHARED, NODES, cohort, Terms(1.0, noise, rate))


def trained(change, number=7, base=BASE, clip_norm=1.0, metrics=None):
    update = Update({"w": np.asarray(change, np.float32)}, 10, base)
    return Trained(number, ClippedUpdate(update, clip_norm), metrics or {})


def opened(cohort=NODES, **terms):
    return begin(plan(cohort, **terms), dict.fromkeys(NODES, READY))


def counted(collection, *replies):
    for node, reply in replies:
        collection = count(collection, node, reply, BASE, max_lag=1)
    return collection


def test_only_the_ready_part_of_the_cohort_is_asked():
    statuses = {1: READY, 2: DeviceStatus(False, "charge", 1, 9, {}), 4: READY}

    collection = begin(plan(cohort=(1, 2, 3)), statuses)

    assert collection.asked == {1}
    assert collection.declined == {2: "charge"}
    assert collection.silent == {3: "gave no answer to the status query"}


def test_a_worked_round():
    collection = counted(
        opened(),
        (1, trained([0.5, 0, 0, 0], metrics={"loss": 1.0})),
        (2, trained([0, 0.5, 0, 0], metrics={"loss": 2.0})),
        (3, Declined(7, "heat")),
    )

    result = outcome(collection, 1.5, 2.5)
    delta = release(collection, "fog-a", np.random.default_rng(0)).delta["w"]

    assert (result.accepted, result.declined, result.silent) == ((1, 2), {3: "heat"}, {4: "gave no answer in time"})
    assert (result.num_examples, result.metrics, result.seconds, result.epsilon) == (20, {"loss": 1.5}, 1.5, 2.5)
    np.testing.assert_allclose(delta, [0.25, 0.25, 0, 0])  # over the two devices expected of four


@pytest.mark.parametrize(
    ("reply", "group", "reason"),
    [
        (trained([9, 0, 0, 0]), "refused", "too_long"),
        (trained([np.nan, 0, 0, 0]), "refused", "not_finite"),
        (trained([0, 0]), "refused", "wrong_shape"),
        (trained([0, 0, 0, 0], base=ModelVersion(1, 1)), "refused", "stale"),
        (trained([0, 0, 0, 0], base=ModelVersion(2, 3)), "refused", "stale"),
        (trained([0, 0, 0, 0], number=6), "refused", "answers round 6"),
        (Declined(6, "heat"), "refused", "answers round 6"),
        (Unreadable("malformed: not that"), "refused", "malformed: not that"),
        (Declined(7, "budget"), "declined", "budget"),
        (Lost("the device is offline"), "silent", "the device is offline"),
    ],
)
def test_what_is_not_accepted_is_kept_with_its_reason_and_counts_as_zero(reply, group, reason):
    collection = counted(opened(), (2, reply))

    assert getattr(outcome(collection, 0, 0), group)[2] == reason
    assert collection.total is None


def test_a_device_is_counted_once_and_strangers_never():
    once = counted(opened(cohort=(1, 2)), (1, trained([0.5, 0, 0, 0])))

    again = counted(once, (1, trained([0.5, 0, 0, 0])), (3, trained([0.5, 0, 0, 0])), (99, Declined(7, "")))

    assert again == once


def test_an_update_longer_than_the_fogs_norm_does_not_get_in_by_claiming_another_norm():
    collection = counted(opened(), (1, trained([1.0 + 5e-7, 0, 0, 0], clip_norm=50.0)))  # within the tolerance

    assert collection.total.clip_norm == 1.0
    assert np.linalg.norm(collection.total.total["w"]) <= 1.0


def test_a_metric_is_averaged_only_when_every_accepted_device_gave_it():
    collection = counted(
        opened(),
        (1, trained([0, 0, 0, 0], metrics={"loss": 1.0, "own": 5.0})),
        (2, trained([0, 0, 0, 0], metrics={"loss": 3.0, "new": 7.0})),
    )

    assert outcome(collection, 0, 0).metrics == {"loss": 2.0}


@pytest.mark.parametrize(("quorum", "enough"), [(0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_a_round_is_over_when_the_quorum_has_answered(quorum, enough):
    collection = opened()
    answers = 0
    while not is_over(collection, quorum):
        collection = counted(collection, (NODES[answers], Declined(7, "")))
        answers += 1

    assert answers == enough


def test_a_round_nobody_was_asked_in_is_over_at_once_and_releases_noise():
    collection = opened(cohort=(), noise=1.0)

    assert is_over(collection, 1.0)
    assert norm(release(collection, "fog-a", np.random.default_rng(0)).delta) > 0


replies = st.one_of(
    st.builds(trained, st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4), st.sampled_from([6, 7])),
    st.builds(Declined, st.sampled_from([6, 7]), st.just("no")),
    st.builds(Unreadable, st.just("bad")),
    st.builds(Lost, st.just("gone")),
)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 5]), replies), max_size=12))
def test_every_chosen_device_ends_in_exactly_one_group_and_the_sum_stays_bounded(events):
    collection = counted(opened(), *events)

    result = outcome(collection, 0, 0)
    groups = [*result.accepted, *result.declined, *result.refused, *result.silent]
    assert sorted(groups) == list(NODES)
    if collection.total is not None:
        length = float(np.linalg.norm(collection.total.total["w"]))
        assert length <= len(result.accepted) * (1 + 1e-12)


def test_the_device_clips_and_the_fog_clips_again():
    long = clip(Update({"w": np.full(4, 100, np.float32)}, 1, BASE), 3.0)

    assert counted(opened(), (1, Trained(7, long, {}))).refused == {1: "too_long"}
