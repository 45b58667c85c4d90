import datetime
from dataclasses import replace

import pytest
from pydantic import ValidationError

from edge_agent.budget import Cost
from edge_agent.config import Limits
from edge_agent.forecast import Trend
from edge_agent.governor import OF_THE_DEVICE, Situation, decide
from edge_agent.shaping import headroom, shape
from edge_agent.values import Action, Decision, Quality, Reading, Reason, Shape, Telemetry

LIMITS = Limits(max_soc_temp_c=70, resume_soc_temp_c=65, min_charge=0.3, min_samples=8)


def known(value, age_s=0.0, quality=Quality.OK):
    return Reading(value, "", age_s, quality, "test")


def unknown(quality=Quality.ABSENT):
    return Reading(0.0, "", float("inf"), quality, "test")


def device(temp=known(50.0), throttled=unknown(), charge=known(0.8), plugged=known(0.0), **more):
    return Telemetry(temp, throttled, charge, plugged, **more)


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


STRICT = LIMITS.model_copy(
    update={
        "max_cpu_pressure": 0.4,
        "max_joules_per_day": 1000.0,  # of which two pieces of 6 W * 5 s are kept free
        "max_bytes_per_day": 1000,
        "quiet_hours": ("22:00-07:00",),
    }
)
NOON = datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.UTC)
DAY = replace(FINE, local=NOON)
TRAINED = Decision(Action.TRAIN, Reason.READY, "")
WAITED = Decision(Action.WAIT, Reason.CHARGE, "")
SOON = Trend(slope_c_per_s=1.0, span_s=20.0)

STRICT_CASES = [
    (device(), DAY, Reason.READY),
    (device(temp=known(59.9)), replace(DAY, trend=SOON), Reason.READY),  # 10.1 s to 70 °C
    (device(temp=known(60.1)), replace(DAY, trend=SOON), Reason.HEAT_SOON),
    (device(temp=known(60.1)), replace(DAY, trend=Trend(-1.0, 20.0)), Reason.READY),
    (device(temp=known(60.1), trip_c=known(95.0)), replace(DAY, trend=SOON), Reason.READY),
    (device(temp=known(60.0), trip_c=known(60.0)), DAY, Reason.HEAT),
    (device(battery_temp_c=known(45.0)), DAY, Reason.HEAT),
    (device(battery_temp_c=unknown(Quality.IMPLAUSIBLE)), DAY, Reason.HEAT_UNKNOWN),
    (device(under_voltage=known(1.0)), DAY, Reason.UNDER_VOLTAGE),
    (device(under_voltage=unknown(Quality.DENIED)), DAY, Reason.UNKNOWN),
    (device(throttled=unknown(Quality.DENIED)), DAY, Reason.UNKNOWN),
    (device(cpu_pressure=known(0.41)), DAY, Reason.BUSY),
    (device(cpu_pressure=known(0.85)), replace(DAY, own_share=0.5), Reason.READY),  # 0.35 is of others
    (device(cpu_pressure=unknown(Quality.DENIED)), DAY, Reason.UNKNOWN),
    (device(memory_pressure=known(0.31)), DAY, Reason.MEMORY),
    (device(free_memory_mib=known(383.0)), DAY, Reason.MEMORY),
    (device(free_memory_mib=known(384.0)), DAY, Reason.READY),
    (device(metered=known(1.0)), DAY, Reason.METERED),
    (device(metered=known(0.0)), DAY, Reason.READY),
    (device(metered=known(0.0, 59.0)), DAY, Reason.READY),  # asked seldom, and networks change seldom
    (device(metered=known(1.0, 59.0)), DAY, Reason.METERED),
    (device(), replace(DAY, local=NOON.replace(hour=22)), Reason.QUIET),
    (device(), replace(DAY, local=NOON.replace(hour=6, minute=59)), Reason.QUIET),
    (device(), replace(DAY, local=NOON.replace(hour=7)), Reason.READY),
    (device(), FINE, Reason.QUIET),  # nobody knows what time it is
    (device(), replace(DAY, spent=Cost(940.0)), Reason.READY),
    (device(), replace(DAY, spent=Cost(940.1)), Reason.ENERGY_CAP),
    (device(), replace(DAY, spent=Cost(bytes=900), round_bytes=100), Reason.READY),
    (device(), replace(DAY, spent=Cost(bytes=900), round_bytes=101), Reason.TRAFFIC_CAP),
]


@pytest.mark.parametrize(("telemetry", "situation", "reason"), STRICT_CASES)
def test_what_the_device_may_do_when_its_owner_asks_for_more(telemetry, situation, reason):
    decision = decide(telemetry, STRICT, situation)
    assert decision.reason is reason
    assert (decision.action is Action.TRAIN) == (reason is Reason.READY)
    assert decision.sentence


@pytest.mark.parametrize("metered", [known(0.0, 61.0), known(0.0, 6.0, Quality.STALE), unknown(Quality.IMPLAUSIBLE)])
def test_a_network_that_was_last_heard_of_too_long_ago_counts_as_metered_also_for_the_fog(metered):
    for situation in (DAY, replace(DAY, can_offload=True)):
        decision = decide(device(metered=metered), STRICT, situation)
        assert (decision.action, decision.reason) == (Action.WAIT, Reason.UNKNOWN)


@pytest.mark.parametrize(
    ("setting", "telemetry", "reason"),
    [
        ({"needs_charger": True}, device(charge=known(1.0)), Reason.CHARGER),
        ({"needs_charger": True}, device(plugged=known(1.0)), Reason.READY),
        ({"absent_is_metered": True}, device(), Reason.METERED),
        ({"allow_metered": True}, device(metered=known(1.0)), Reason.READY),
        ({"max_memory_pressure": None}, device(memory_pressure=known(0.9)), Reason.READY),
        ({"max_cpu_pressure": None}, device(cpu_pressure=known(1.0)), Reason.READY),
    ],
)
def test_one_setting_decides(setting, telemetry, reason):
    assert decide(telemetry, STRICT.model_copy(update=setting), DAY).reason is reason


def test_a_learner_may_use_memory_that_was_free_when_it_started():
    telemetry = device(free_memory_mib=known(200.0))
    assert decide(telemetry, STRICT, DAY, WAITED).reason is Reason.MEMORY
    assert decide(telemetry, STRICT, DAY, TRAINED).reason is Reason.READY
    assert decide(device(free_memory_mib=known(127.0)), STRICT, DAY, TRAINED).reason is Reason.MEMORY


def test_starting_takes_the_dwell_and_stopping_takes_no_time():
    assert decide(device(), LIMITS, replace(FINE, dwelt_s=1.9), WAITED).reason is Reason.DWELL
    assert decide(device(), LIMITS, replace(FINE, dwelt_s=2.0), WAITED).reason is Reason.READY
    assert decide(device(temp=known(71.0)), LIMITS, replace(FINE, dwelt_s=0.0), TRAINED).reason is Reason.HEAT


FORCED = replace(DAY, forced=True, local=NOON.replace(hour=23))


@pytest.mark.parametrize(
    ("telemetry", "situation", "reason"),
    [
        (device(temp=known(84.0), trip_c=known(85.0)), FORCED, Reason.FORCED),
        (device(temp=known(85.0), trip_c=known(85.0)), FORCED, Reason.HEAT),
        (device(temp=known(71.0)), FORCED, Reason.HEAT),  # no trip point is known, so the owner's limit stays
        (device(temp=unknown(Quality.DENIED)), FORCED, Reason.HEAT_UNKNOWN),
        (device(charge=known(0.05), throttled=known(1.0), metered=known(1.0)), FORCED, Reason.FORCED),
        (device(cpu_pressure=known(1.0)), FORCED, Reason.FORCED),
        (device(under_voltage=known(1.0)), FORCED, Reason.UNDER_VOLTAGE),
        (device(), replace(FORCED, spent=Cost(990.0)), Reason.ENERGY_CAP),
        (device(), replace(FORCED, paused=True), Reason.PAUSED),
        (device(), replace(FORCED, samples=0), Reason.FEW_SAMPLES),
    ],
)
def test_force_silences_comfort_and_never_what_protects_the_device(telemetry, situation, reason):
    assert decide(telemetry, STRICT, situation).reason is reason


ROOM = [
    (device(temp=known(65.0)), 1.0),
    (device(temp=known(67.5)), 0.5),
    (device(temp=known(69.9)), 0.02),
    (device(temp=known(75.0)), 0.0),
    (device(temp=known(67.5), trip_c=known(68.0)), 0.1),  # the chip's own limit is the lower one
    (device(charge=known(0.35)), 0.5),
    (device(charge=known(0.35), plugged=known(1.0)), 1.0),
    (device(temp=unknown(), charge=unknown()), 1.0),  # what it does not have limits nothing
    (device(temp=unknown(Quality.DENIED)), 0.0),
    (device(throttled=known(1.0)), 0.0),
]


@pytest.mark.parametrize(("telemetry", "room"), ROOM)
def test_the_room_left_for_answering_ends_at_the_limits(telemetry, room):
    assert headroom(telemetry, LIMITS, forced=False) == pytest.approx(room)
    assert decide(telemetry, LIMITS, FINE).headroom == pytest.approx(room)


@pytest.mark.parametrize(("telemetry", "room"), ROOM)
def test_a_job_gets_shorter_as_the_room_left_gets_smaller(telemetry, room):
    assert shape(telemetry, LIMITS, rank=8) == Shape(steps=pytest.approx(max(0.25, room)))


@pytest.mark.parametrize(
    ("free_mib", "batch", "rank"),
    [
        (384.0, 1.0, None),
        (256.0, 0.5, 4),
        (160.0, 0.25, 2),
        (1.0, 0.25, 2),
        (383.9, pytest.approx(0.9996, abs=1e-4), 8),
    ],
)
def test_a_job_gets_narrower_as_memory_gets_scarce(free_mib, batch, rank):
    assert shape(device(free_memory_mib=known(free_mib)), LIMITS, rank=8) == Shape(1.0, batch, rank)
    assert shape(device(free_memory_mib=known(free_mib)), LIMITS, rank=None).rank is None


CAN_OFFLOAD = replace(DAY, can_offload=True)


@pytest.mark.parametrize(("telemetry", "situation", "reason"), CASES + STRICT_CASES)
def test_the_fog_takes_the_work_when_only_the_device_stands_against_it(telemetry, situation, reason):
    decision = decide(telemetry, STRICT, replace(situation, local=situation.local or NOON, can_offload=True))
    alone = decide(telemetry, STRICT, replace(situation, local=situation.local or NOON))
    assert decision.reason is alone.reason
    bars = situation.release is None or situation.samples < 8
    of_supply = telemetry.under_voltage.quality is Quality.DENIED
    goes = alone.reason in OF_THE_DEVICE and not bars and not of_supply
    assert decision.action is (Action.OFFLOAD if goes else alone.action)


@pytest.mark.parametrize(
    ("telemetry", "situation"),
    [
        (device(temp=known(80.0)), replace(CAN_OFFLOAD, paused=True)),
        (device(temp=known(80.0)), replace(CAN_OFFLOAD, budget_left=False)),
        (device(), replace(CAN_OFFLOAD, can_learn=False, budget_left=False)),
        (device(temp=known(80.0), metered=known(1.0)), CAN_OFFLOAD),
        (device(temp=known(80.0), metered=unknown(Quality.DENIED)), CAN_OFFLOAD),
        (device(temp=known(80.0)), replace(CAN_OFFLOAD, local=NOON.replace(hour=23))),
        (device(temp=known(80.0), under_voltage=known(1.0)), CAN_OFFLOAD),
        (device(temp=known(80.0)), replace(CAN_OFFLOAD, spent=Cost(bytes=900), round_bytes=101)),
        (device(temp=known(80.0)), replace(CAN_OFFLOAD, release=None)),
        (device(temp=known(80.0)), replace(CAN_OFFLOAD, samples=7)),
    ],
)
def test_a_hot_device_offloads_nothing_that_may_not_leave_it_now(telemetry, situation):
    assert decide(telemetry, STRICT, situation).action in {Action.WAIT, Action.SERVE_ONLY}


def test_a_person_who_forces_training_sends_it_to_the_fog_also_in_quiet_hours_and_over_a_metered_line():
    hot = device(temp=known(80.0), metered=known(1.0))
    forced = replace(CAN_OFFLOAD, forced=True, local=NOON.replace(hour=23))
    assert decide(hot, STRICT, forced).action is Action.OFFLOAD


def test_work_goes_to_the_fog_only_after_the_device_has_been_unable_for_the_dwell_and_comes_back_after_it():
    hot, cool = device(temp=known(71.0)), device(temp=known(60.0))
    able = replace(FINE, can_offload=True)
    steps = [
        (hot, TRAINED, 100.0, Action.WAIT, Reason.HEAT),  # a stop never waits, a start does
        (hot, WAS_HOT, 1.9, Action.WAIT, Reason.HEAT),
        (hot, WAS_HOT, 2.0, Action.OFFLOAD, Reason.HEAT),
        (device(temp=known(66.0)), Decision(Action.OFFLOAD, Reason.HEAT, ""), 9.0, Action.OFFLOAD, Reason.HEAT),
        (cool, Decision(Action.OFFLOAD, Reason.HEAT, ""), 1.9, Action.OFFLOAD, Reason.DWELL),
        (cool, Decision(Action.OFFLOAD, Reason.DWELL, ""), 2.0, Action.TRAIN, Reason.READY),
    ]
    for telemetry, previous, dwelt_s, action, reason in steps:
        decision = decide(telemetry, LIMITS, replace(able, dwelt_s=dwelt_s), previous)
        assert (decision.action, decision.reason) == (action, reason)
    lost = decide(hot, LIMITS, replace(FINE, dwelt_s=0.1), Decision(Action.OFFLOAD, Reason.HEAT, ""))
    assert lost.action is Action.WAIT  # a fog that is away ends it at once


@pytest.mark.parametrize(
    "odd",
    [
        {"resume_free_memory_mib": 1},
        {"quiet_hours": ["22:00-22:00"]},
        {"quiet_hours": ["24:00-07:00"]},
        {"max_joules_per_day": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused(odd):
    with pytest.raises(ValidationError):
        Limits.model_validate(odd)
