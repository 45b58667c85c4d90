"""The round loop on a virtual clock, with simulated devices and cloud; journal and mirror are the real ones."""

import numpy as np
import pytest

from fog_aggregator.plans import Budget, Terms
from fog_aggregator.site import Abandoned, Closed, Idle, Opened, Settled, live
from learning_core.updates import ModelVersion
from protos.flower_records import QUERY_STATUS, TRAIN


def outcome_of(events):
    (closed,) = (event for event in events if isinstance(event, Closed))
    return closed.outcome


def names(site, nodes):
    labels = {node: label for label, node in site.nodes.items()}
    return sorted(labels[node] for node in nodes)


def test_a_round_is_opened_closed_delivered_and_settled(make_site, plain_device, cloud):
    site = make_site({"a": plain_device(0), "b": plain_device(1)})

    events = site.turn()

    assert [type(event) for event in events] == [Opened, Closed, Settled]
    assert names(site, outcome_of(events).accepted) == ["a", "b"]
    assert events[-1].by_cloud
    assert events[-1].version == ModelVersion(1, 1)
    np.testing.assert_array_equal(cloud.kept["fog-a", 1].delta["head.lora_B"].flat[:3], [0.0625, 0.0625, 0])
    assert site.journal.base().shared["head.lora_B"].flat[0] == 0.0625


def test_the_denominator_is_the_expected_cohort_when_a_device_stays_silent(make_site, plain_device, cloud):
    site = make_site({label: plain_device(0) for label in "abcd"})
    site.links["b"].online = site.links["c"].online = False

    outcome = outcome_of(site.turn())

    assert names(site, outcome.silent) == ["b", "c"]
    assert cloud.kept["fog-a", 1].delta["head.lora_B"].flat[0] == pytest.approx(2 * 0.125 / 4)


def test_who_is_not_ready_or_declines_is_counted_with_the_reason_and_as_zero(make_site, plain_device, cloud):
    devices = {
        "hot": plain_device(reason="heat: 80 degrees"),
        "shy": plain_device(decline="charge: 10 %"),
        "old": plain_device(serves=7),
        "good": plain_device(0),
    }
    site = make_site(devices)

    outcome = outcome_of(site.turn())

    reasons = {next(iter(names(site, [node]))): reason for node, reason in outcome.declined.items()}
    assert reasons == {"hot": "heat: 80 degrees", "shy": "charge: 10 %", "old": "serves release 7, not 1"}
    assert devices["hot"].trained == []  # it had said so
    assert cloud.kept["fog-a", 1].delta["head.lora_B"].flat[0] == pytest.approx(0.125 / 4)


def test_no_round_is_opened_while_nobody_is_ready(make_site, plain_device):
    site = make_site({"a": plain_device(reason="few_samples"), "b": plain_device(reason="few_samples")})

    (event,) = site.turn()

    assert event == Idle("too few devices are ready (2 few_samples)")
    assert site.journal.histories() == {}


def test_a_round_can_wait_for_more_than_one_device(make_site, plain_device):
    site = make_site({"a": plain_device(), "b": plain_device(reason="few_samples")}, min_ready=2)

    assert site.turn() == [Idle("too few devices are ready (1 few_samples, 1 ready)")]


def test_an_open_round_waits_for_its_devices_after_a_restart(make_site, plain_device, cloud):
    devices = {"a": plain_device(0), "b": plain_device(1)}
    first = make_site(devices)
    next(iter(live(first.site)))  # opened, then killed
    first.close()
    again = make_site(devices)
    for label, after_s in {"a": 1.0, "b": 2.5}.items():
        again.links[label].online = False
        again.clock.at(after_s, lambda link=again.links[label]: setattr(link, "online", True))

    events = again.turn()

    assert events[0].again
    assert names(again, outcome_of(events).accepted) == ["a", "b"]


def test_an_open_round_whose_devices_never_come_back_ends_at_its_deadline(make_site, plain_device, cloud):
    first = make_site({"a": plain_device(0)}, min_devices=1)
    next(iter(live(first.site)))
    first.close()
    again = make_site({"a": plain_device(0)}, min_devices=1, deadline_s=20.0)
    again.links["a"].online = False

    outcome = outcome_of(again.turn())

    assert outcome.accepted == ()
    assert 20.0 <= again.clock.now_s() < 40.0
    assert len(cloud.kept) == 1


def test_a_round_in_which_everybody_declines_still_releases_noise_and_is_charged(make_site, plain_device, cloud):
    site = make_site({"a": plain_device(decline="busy"), "b": plain_device(decline="busy")}, terms=Terms(1.0, 1.0, 1.0))

    outcome = outcome_of(site.turn())

    assert outcome.accepted == ()
    assert np.abs(cloud.kept["fog-a", 1].delta["head.lora_B"]).min() > 0
    assert len(site.journal.histories()) == 2


def test_too_few_devices_make_no_round(make_site, plain_device):
    site = make_site({"a": plain_device()}, min_devices=2)

    assert site.turn() == [Idle("1 of at least 2 devices are enrolled")]


def test_without_a_release_there_is_no_round(make_site, plain_device, cloud):
    cloud.away = True
    site = make_site({"a": plain_device(), "b": plain_device()})

    assert site.turn() == [Idle("no release is mirrored yet")]


def test_a_slow_device_misses_its_round_and_its_late_answer_counts_nowhere(make_site, plain_device, cloud):
    site = make_site({"a": plain_device(0), "slow": plain_device(1)}, deadline_s=10)
    site.links["slow"].delays_s = {TRAIN: 15.0}

    first = outcome_of(site.turn())
    site.links["slow"].delays_s = {}
    second = outcome_of(site.turn())

    assert names(site, first.silent) == ["slow"]
    assert first.seconds == pytest.approx(10, abs=0.2)
    assert names(site, second.accepted) == ["a", "slow"]
    assert cloud.kept["fog-a", 1].delta["head.lora_B"].flat[1] == 0
    assert cloud.kept["fog-a", 2].delta["head.lora_B"].flat[1] == 0.0625  # its own answer to round 2, once


def test_a_quorum_closes_the_round_before_the_deadline(make_site, plain_device):
    site = make_site({label: plain_device() for label in "abcd"}, deadline_s=100, quorum=0.75)
    site.links["d"].delays_s = {TRAIN: 90.0}

    outcome = outcome_of(site.turn())

    assert outcome.seconds < 5
    assert names(site, outcome.silent) == ["d"]


def test_a_status_query_waits_no_longer_than_its_deadline(make_site, plain_device):
    site = make_site({label: plain_device() for label in "ab"}, status_deadline_s=3)
    site.links["b"].delays_s = {QUERY_STATUS: 60.0}
    began_s = site.clock.now_s()

    outcome = outcome_of(site.turn())

    assert outcome.silent == {site.nodes["b"]: "gave no answer to the status query"}
    assert site.clock.now_s() - began_s < 3 + 2


def test_updates_that_do_not_fit_are_refused_with_the_reason(make_site, plain_device, cloud):
    class Liar(plain_device):
        def train(self, request):
            trained = super().train(request)
            object.__setattr__(trained, "round", request.round + 1)
            return trained

    class Stretched(plain_device):
        def train(self, request):
            trained = super().train(request)
            object.__setattr__(trained.update, "clip_norm", 100.0)
            trained.update.update.delta["head.lora_B"][:] = 5.0
            return trained

    class Stale(plain_device):
        def train(self, request):
            object.__setattr__(request, "base_version", ModelVersion(1, request.base_version.step + 9))
            return super().train(request)

    site = make_site({"liar": Liar(), "stretched": Stretched(), "stale": Stale(), "good": plain_device(0)})

    outcome = outcome_of(site.turn())

    reasons = {next(iter(names(site, [node]))): reason for node, reason in outcome.refused.items()}
    assert reasons == {"liar": "answers round 2", "stretched": "too_long", "stale": "stale"}
    assert cloud.kept["fog-a", 1].delta["head.lora_B"].flat[0] == pytest.approx(0.125 / 4)


def test_a_device_that_cannot_read_the_request_is_silent_with_its_own_words(make_site, plain_device):
    class OtherModel(plain_device):
        def adapter_shapes(self):
            return {"other": (1,)}

    site = make_site({"a": OtherModel(), "b": plain_device()})

    outcome = outcome_of(site.turn())

    assert "do not fit the model" in outcome.silent[site.nodes["a"]]


def test_while_the_cloud_is_away_the_fog_goes_on_with_its_own_aggregate(make_site, plain_device, cloud):
    site = make_site({"a": plain_device(0)}, min_devices=1)
    cloud.away = True

    events = site.turn()
    site.turn()

    assert isinstance(events[-1], Settled)
    assert not events[-1].by_cloud
    assert site.journal.base().version == ModelVersion(1, 0)
    assert site.journal.base().shared["head.lora_B"].flat[0] == 0.25  # both rounds
    assert site.journal.waiting() == 2


def test_what_was_done_while_the_cloud_was_away_arrives_in_order_and_once(make_site, plain_device, cloud):
    site = make_site({"a": plain_device(0)}, min_devices=1)
    cloud.away = True
    for _ in range(3):
        site.turn()
    cloud.away = False

    site.exchange()

    assert list(cloud.kept) == [("fog-a", 1), ("fog-a", 2), ("fog-a", 3)]
    assert site.journal.waiting() == 0
    assert site.journal.base().version == ModelVersion(1, 3)
    assert site.journal.base().shared["head.lora_B"].flat[0] == 0.375  # the cloud's, not added on top of the fog's own


def test_no_round_is_spent_while_the_cloud_makes_the_next_release(make_site, plain_device, cloud):
    site = make_site({"a": plain_device(0)}, min_devices=1)
    cloud.distilling = True
    site.exchange()
    (idle,) = site.turn()
    assert "making the next release" in idle.reason
    assert site.journal.histories() == {}

    cloud.distilling = False
    site.exchange()
    assert [type(event) for event in site.turn()] == [Opened, Closed, Settled]


def test_a_round_is_abandoned_uncharged_when_a_release_comes_in_the_middle(make_site, plain_device, cloud, publish):
    site = make_site({"a": plain_device(0)}, min_devices=1)
    site.links["a"].delays_s = {TRAIN: 5.0}
    site.clock.at(site.clock.now_s() + 1.0, lambda: cloud.publish(publish(2)))

    events = site.turn()

    assert [type(event) for event in events] == [Opened, Abandoned]
    assert site.journal.histories() == {}
    assert cloud.kept == {}
    assert site.journal.base().version == ModelVersion(2, 0)
    site.links["a"].delays_s = {}
    assert outcome_of(site.turn()).base_version == ModelVersion(2, 0)


def test_only_one_coin_decides_who_is_asked(make_site, plain_device):
    devices = {str(number): plain_device() for number in range(40)}
    site = make_site(devices, terms=Terms(1.0, 0.5, 0.3), seed=3)

    cohorts = [outcome_of(site.turn()).cohort for _ in range(5)]

    assert len(set(cohorts)) == 5
    assert 0.15 < np.mean([len(cohort) for cohort in cohorts]) / 40 < 0.45
    asked = sum(len(device.trained) for device in devices.values())
    assert asked == sum(len(cohort) for cohort in cohorts)


def test_every_enrolled_device_is_charged_whether_its_coin_fell_or_not(make_site, plain_device):
    site = make_site({label: plain_device() for label in "abcdef"}, terms=Terms(1.0, 1.0, 0.5), seed=1)

    outcome = outcome_of(site.turn())

    assert 0 < len(outcome.cohort) < 6
    assert {history[0].rounds for history in site.journal.histories().values()} == {1}
    assert len(site.journal.histories()) == 6
    assert outcome.epsilon > 0


def test_no_round_is_opened_that_would_overspend_a_device(make_site, plain_device):
    site = make_site({"a": plain_device(), "b": plain_device()}, terms=Terms(1.0, 2.0, 0.5), budget=Budget(1e-5, 3.0))

    epsilons = []
    while isinstance(events := site.turn(), list) and not isinstance(events[0], Idle):
        epsilons.append(outcome_of(events).epsilon)

    assert events[0].reason.startswith("the privacy budget is spent")
    assert epsilons == sorted(epsilons)
    assert 2.5 < epsilons[-1] <= 3.0


def test_without_noise_only_an_infinite_budget_allows_a_round(make_site, plain_device):
    site = make_site({"a": plain_device()}, min_devices=1, budget=Budget(1e-5, 1e9))

    assert site.turn()[0].reason.startswith("the privacy budget is spent")


def test_pauses_grow_while_nothing_happens_and_shrink_when_something_does(make_site, plain_device):
    device = plain_device(reason="few_samples")
    site = make_site({"a": device}, min_devices=1, idle_pause_s=4.0, round_pause_s=0.0)
    looks_s = []
    for event in live(site.site):
        if not isinstance(event, Idle):
            break
        looks_s.append(site.clock.now_s())
        if len(looks_s) == 8:
            device.reason = ""

    assert isinstance(event, Opened)
    np.testing.assert_allclose(np.diff(looks_s), [0.2, 0.4, 0.8, 1.6, 3.2, 4.0, 4.0])


def test_news_ends_a_pause_early(make_site, plain_device, cloud, publish):
    site = make_site({"a": plain_device(reason="few_samples")}, min_devices=1, idle_pause_s=3600.0)
    looks_s = []
    for _ in live(site.site):
        looks_s.append(site.clock.now_s())
        if len(looks_s) == 12:
            site.clock.at(site.clock.now_s() + 5, lambda: cloud.publish(publish(2)))
        if len(looks_s) == 14:
            break

    assert np.diff(looks_s)[10] > 200
    assert np.diff(looks_s)[11] == pytest.approx(5, abs=0.2)
