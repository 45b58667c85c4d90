from dataclasses import replace

import pytest

from edge_agent.config import Limits
from edge_agent.governor import Situation, decide
from edge_agent.values import Action, Decision, Quality, Reading, Reason, Telemetry

LIMITS = Limits(max_soc_temp_c=70, resume_soc_temp_c=65, min_charge=0.3, min_samples=8)


def known(value, age_s=0.0, quality=Quality.OK):
    return Reading(value, "", age_s, quality, "test")


def unknown(quality=Quality.ABSENT):
    return Reading(0.0, "", float("inf"), quality, "test")


def device(temp=known(50.0), throttled=unknown(), charge=known(0.8), plugged=known(0.0)):
    return Telemetry(temp, throttled, charge, plugged)


FINE = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=100)
WAS_HOT = Decision(Action.WAIT, Reason.HEAT, "")

CASES = [
    (device(), FINE, Reason.READY),
    (device(temp=known(70.0)), FINE, Reason.HEAT),
    (device(temp=known(69.9)), FINE, Reason.READY),
    (device(temp=unknown(Quality.ABSENT)), FINE, Reason.HEAT_UNKNOWN),
    (device(temp=unknown(Quality.DENIED)), FINE, Reason.HEAT_UNKNOWN),
    (device(temp=unknown(Quality.IMPLAUSIBLE)), FINE, Reason.HEAT_UNKNOWN),
    (device(temp=known(50.0, 5.1, Quality.STALE)), FINE, Reason.HEAT_UNKNOWN),
    (device(temp=known(50.0, 4.9, Quality.STALE)), FINE, Reason.READY),
    (device(throttled=known(1.0)), FINE, Reason.THROTTLED),
    (device(charge=known(0.29)), FINE, Reason.CHARGE),
    (device(charge=known(0.3)), FINE, Reason.READY),
    (device(charge=known(0.05), plugged=known(1.0)), FINE, Reason.READY),
    (device(charge=unknown(), plugged=known(1.0)), FINE, Reason.READY),
    (device(charge=unknown(Quality.DENIED), plugged=unknown(Quality.DENIED)), FINE, Reason.CHARGE_UNKNOWN),
    (device(charge=unknown(), plugged=known(0.0)), FINE, Reason.CHARGE_UNKNOWN),
    (device(), replace(FINE, paused=True), Reason.PAUSED),
    (device(), replace(FINE, can_learn=False), Reason.NOT_INSTALLED),
    (device(), replace(FINE, budget_left=False), Reason.BUDGET),
    (device(), replace(FINE, release=None), Reason.NO_RELEASE),
    (device(), replace(FINE, samples=7), Reason.FEW_SAMPLES),
    (device(temp=known(90.0)), replace(FINE, release=None, samples=0), Reason.HEAT),  # what harms now is said first
]


@pytest.mark.parametrize(("telemetry", "situation", "reason"), CASES)
def test_what_the_device_may_do_and_why(telemetry, situation, reason):
    decision = decide(telemetry, LIMITS, situation)
    assert decision.reason is reason
    assert (decision.action is Action.TRAIN) == (reason is Reason.READY)
    assert (decision.action is Action.SERVE_ONLY) == (reason in {Reason.PAUSED, Reason.NOT_INSTALLED, Reason.BUDGET})
    assert decision.sentence


@pytest.mark.parametrize(("temp", "reason"), [(69.9, Reason.HEAT), (65.0, Reason.HEAT), (64.9, Reason.READY)])
def test_a_device_that_was_hot_has_to_cool_down_further(temp, reason):
    assert decide(device(temp=known(temp)), LIMITS, FINE, WAS_HOT).reason is reason


def test_a_machine_without_a_thermometer_may_train_only_when_a_person_said_so():
    limits = LIMITS.model_copy(update={"needs_thermometer": False})
    assert decide(device(temp=unknown()), limits, FINE).reason is Reason.READY
    assert decide(device(temp=unknown(Quality.DENIED)), limits, FINE).reason is Reason.HEAT_UNKNOWN


def test_the_sentence_names_the_figure_and_the_limit():
    assert "74.0 °C" in decide(device(temp=known(74.0)), LIMITS, FINE).sentence
    assert "below 65 °C" in decide(device(temp=known(66.0)), LIMITS, FINE, WAS_HOT).sentence
