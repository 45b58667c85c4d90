import json

import numpy as np
import pytest

from edge_agent.healing.diagnosis import Cause
from edge_agent.healing.incident import Incident, Outcome, Tried
from edge_agent.healing.loop import Rules
from edge_agent.healing.playbook import Remedy
from edge_agent.healing.signals import Signal
from simulations.healing.device import Broken
from simulations.healing.episodes import Episode, Plan, play, warmed, yardstick
from simulations.healing.faults import FAULTS, RAMP_TICKS, Hit, flipped, noised_weights, progress
from simulations.healing.scoring import Quiet, Result, claims, recovery, wilson
from simulations.healing.student import student
from simulations.scenarios.healing import Setting, run

TINY = Setting(
    seeds=1, students=1, train_steps=12, judge_epochs=1, warm_up=3, ticks=2, quiet_ticks=10, requests=2, ablation=False
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def made(cache):
    return student(TINY.train_steps, TINY.student_seed(0), cache, TINY.judge_epochs)


def result(name, unhealed, healed, incidents=(), ramped=False):
    plan = Plan((FAULTS[name],), ramped, len(unhealed), 10, 0)
    return Result(
        name, plan, np.full(len(unhealed), 0.95), np.array(unhealed), Episode(np.array(healed), tuple(incidents))
    )


def incident(cause, outcome=Outcome.HEALED):
    tried = (Tried(cause, Remedy.REVERIFY, True),) if outcome is Outcome.HEALED else ()
    return Incident(0, 0, (Signal.PROBE,), (cause,), tried, outcome, "")


def test_a_fault_that_answers_bear_is_not_harmful_and_one_that_halves_them_is():
    assert not result("sampler", [0.93] * 16, [0.93] * 16).is_harmful
    assert result("sampler", [0.5] * 16, [0.95] * 16).is_harmful


def test_recovery_is_counted_from_the_fault_or_for_a_ramp_from_when_it_was_found():
    healed = [0.3, 0.3, 0.3] + [0.95] * 13
    assert recovery(result("sampler", [0.3] * 16, healed, [(2, incident(Cause.SAMPLER))])) == 3
    ramp = [0.95] * 6 + [0.2] * 25
    found = result("sampler", ramp, [0.95] * 6 + [0.2, 0.2] + [0.95] * 23, [(7, incident(Cause.SAMPLER))], ramped=True)
    assert (found.harm_at, found.detected_at, recovery(found)) == (3, 7, 1)


def test_a_diagnosis_is_right_when_it_names_all_causes_and_no_other():
    bad = [0.3] * 16
    assert result("sampler", bad, bad, [(1, incident(Cause.SAMPLER))]).is_right
    assert not result("sampler", bad, bad, [(1, incident(Cause.SAMPLER)), (5, incident(Cause.MODEL))]).is_right
    assert not result("sampler", bad, bad).is_right
    logged = incident(Cause.HARMLESS, Outcome.LOGGED)
    assert result("weights 0.6", bad, bad, [(1, logged), (3, incident(Cause.MODEL))]).is_right
    assert result("weights 0.6", bad, bad, [(1, logged)]).detected_at is None


def test_verdicts_follow_from_the_episodes():
    good = [result("sampler", [0.3] * 16, [0.95] * 16, [(1, incident(Cause.SAMPLER))])] * 400
    assert [each.verdict for each in claims(good, Quiet(4000, 0, 9))] == ["holds"] * 5
    bad = [result("sampler", [0.3] * 16, [0.3] * 16)] * 10
    verdicts = {each.id: each.verdict for each in claims(bad, Quiet(100, 50, 50))}
    assert verdicts["healing.detection"] == verdicts["healing.good_share_gap"] == "falls"
    assert verdicts["healing.false_per_1000_ticks"] == verdicts["healing.ticks_to_recover"] == "falls"


def test_wilson_by_hand_and_of_nothing():
    assert wilson(10, 10) == (pytest.approx(0.722, abs=1e-3), pytest.approx(1.0))
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_ramp_ends_where_the_sudden_fault_begins():
    assert progress(0, ramped=False) == 1.0
    assert progress(0, ramped=True) == pytest.approx(1 / RAMP_TICKS)
    assert progress(RAMP_TICKS - 1, ramped=True) == progress(99, ramped=True) == 1.0


def test_faults_of_weights_are_as_large_as_they_say():
    weights = {"a": np.random.default_rng(0).normal(0, 2, (50, 50)).astype(np.float32)}
    assert (noised_weights(weights, 0.5, 1)["a"] - weights["a"]).std() == pytest.approx(1.0, rel=0.05)
    assert np.array_equal(noised_weights(weights, 0.0, 1)["a"], weights["a"])
    changed = flipped(weights, 7, 1)["a"].view(np.uint32) ^ weights["a"].view(np.uint32)
    assert sum(int(word).bit_count() for word in changed.ravel()) <= 7
    assert changed.any()


def test_every_fault_but_none_and_a_fashion_breaks_something(made):
    for fault in FAULTS.values():
        broken = fault.apply(Broken(), Hit(made, 1.0, 3))
        assert (broken != Broken()) == (fault.name not in {"none", "drifting input", "one condition"})


def test_a_device_whose_student_went_bad_in_memory_is_mended_and_the_same_plan_gives_the_same_episode(made):
    warm = warmed(made, Rules(), 2, 2, 2)
    plan = Plan((FAULTS["weights 1.2"],), False, 3, 2, 2)
    episodes = [play(warm, plan, yardstick(made, 2, 40), Rules()) for _ in range(2)]
    assert np.array_equal(episodes[0].good, episodes[1].good)
    assert [(t, i.causes, i.outcome) for t, i in episodes[0].incidents] == [(1, (Cause.MODEL,), Outcome.HEALED)]
    assert play(warm, plan, yardstick(made, 2, 40), None).incidents == ()


def test_the_scenario_runs_and_reports_what_it_is(tmp_path, capsys, cache, made):
    run(tmp_path, TINY.only(["corrupt file"]), as_json=True, cache=cache)
    content = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(capsys.readouterr().out) == content
    assert content["figures"]["simulated"] is True
    assert [(each["fault"], each["ramped"]) for each in content["figures"]["episodes"]] == [
        ("corrupt file", False),
        ("corrupt file", True),
    ]
    assert {each["id"] for each in content["claims"]} == {
        "healing.detection",
        "healing.diagnosis",
        "healing.false_per_1000_ticks",
        "healing.ticks_to_recover",
        "healing.good_share_gap",
    }
    assert "simulated" in (tmp_path / "report.html").read_text()
