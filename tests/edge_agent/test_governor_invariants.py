import datetime
from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.budget import Cost
from edge_agent.config import Limits
from edge_agent.forecast import Trend
from edge_agent.governor import Situation, decide
from edge_agent.shaping import LEAST_SHARE
from edge_agent.thermal_model import Outlook, ThermalModel
from edge_agent.values import Action, Decision, Quality, Reading, Reason, Telemetry
from edge_agent.watch import Watch

LIMITS = Limits(
    max_cpu_pressure=0.5,
    max_joules_per_day=1000.0,
    max_bytes_per_day=10_000,
    quiet_hours=("22:00-07:00",),
    min_dwell_s=3.0,
)
NOON = datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.UTC)
MEANT = {
    "soc_temp_c": st.floats(20, 110),
    "trip_c": st.floats(60, 110),
    "battery_temp_c": st.floats(10, 60),
    "free_memory_mib": st.floats(0, 2000),
    "power_w": st.floats(0, 60),
}
NAMES = [field.name for field in fields(Telemetry)]


def readings(values, qualities=st.sampled_from(Quality)):
    return st.builds(Reading, values, st.just(""), st.floats(0, 10), qualities, st.just("test"))


DEVICES = st.builds(Telemetry, **{name: readings(MEANT.get(name, st.floats(0, 1))) for name in NAMES})
KNOWN = Telemetry(**{name: Reading(0.0, "", 0.0, Quality.OK, "test") for name in NAMES})
FINE_DEVICE = replace(
    KNOWN,
    soc_temp_c=Reading(45.0, "", 0.0, Quality.OK, "test"),
    trip_c=Reading(85.0, "", 0.0, Quality.OK, "test"),
    battery_temp_c=Reading(25.0, "", 0.0, Quality.OK, "test"),
    plugged=Reading(1.0, "", 0.0, Quality.OK, "test"),
    free_memory_mib=Reading(900.0, "", 0.0, Quality.OK, "test"),
)
MODEL = ThermalModel(rest_c=40.0, die_k=10.0, die_s=10.0, body_k=20.0, body_s=200.0, margin_c=1.0)
SITUATIONS = st.builds(
    Situation,
    paused=st.booleans(),
    can_learn=st.booleans(),
    budget_left=st.booleans(),
    release=st.sampled_from([None, 1]),
    samples=st.integers(0, 20),
    forced=st.booleans(),
    own_share=st.floats(0, 1),
    spent=st.builds(Cost, st.floats(0, 1100), st.integers(0, 11_000)),
    round_bytes=st.integers(0, 5000),
    local=st.sampled_from([None, NOON, NOON.replace(hour=23)]),
    trend=st.none()
    | st.builds(Trend, st.floats(-2, 5), st.just(20.0))
    | st.builds(Outlook, st.just(MODEL), st.floats(-30, 30), st.floats(-30, 90)),
    learner_w=st.floats(0, 40),
    dwelt_s=st.floats(0, 10),
    can_offload=st.booleans(),
    rank=st.none() | st.integers(1, 16),
)
PREVIOUS = st.none() | st.builds(Decision, st.sampled_from(Action), st.sampled_from(Reason), st.just(""))
FINE = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=20, local=NOON)


@given(DEVICES, SITUATIONS, PREVIOUS)
def test_training_never_passes_a_cap_or_the_trip_point_and_always_has_a_shape(telemetry, situation, previous):
    decision = decide(telemetry, LIMITS, situation, previous)
    assert decision.sentence
    assert all(LEAST_SHARE <= share <= 1 for share in (decision.shape.steps, decision.shape.batch))
    assert 0 <= decision.headroom <= 1
    assert decision.action is not Action.OFFLOAD or situation.can_offload
    if decision.action is Action.OFFLOAD:
        assert situation.release is not None
        assert situation.samples >= LIMITS.min_samples
        assert situation.budget_left
        assert not situation.paused
        assert situation.spent.bytes + situation.round_bytes <= LIMITS.max_bytes_per_day
    if decision.action is not Action.TRAIN:
        return
    chip, trip = telemetry.soc_temp_c, telemetry.trip_c
    assert situation.spent.joules + LIMITS.piece_j <= LIMITS.max_joules_per_day
    assert situation.spent.bytes + situation.round_bytes <= LIMITS.max_bytes_per_day
    assert chip.is_known(LIMITS.max_reading_age_s)
    assert chip.value < (trip.value if trip.is_known(LIMITS.max_reading_age_s) else LIMITS.max_soc_temp_c)
    assert not situation.paused


REQUIRED = [name for name in NAMES if name not in {"trip_c", "charge", "plugged", "power_w"}]
HIDDEN = st.sampled_from([Quality.DENIED, Quality.IMPLAUSIBLE]) | st.none()


@given(st.sampled_from(REQUIRED), HIDDEN)
def test_what_a_device_has_and_does_not_show_is_never_eligible(name, quality):
    assert decide(FINE_DEVICE, LIMITS, FINE).action is Action.TRAIN
    old = Reading(0.0, "", LIMITS.max_reading_age_s + 1, Quality.STALE, "test")
    unseen = old if quality is None else replace(old, quality=quality, age_s=0.0)
    assert decide(replace(FINE_DEVICE, **{name: unseen}), LIMITS, FINE).action is Action.WAIT


class Scripted:
    def __init__(self):
        self.telemetry = FINE_DEVICE

    def read(self):
        return self.telemetry


@given(st.lists(st.tuples(st.floats(40, 90), st.booleans(), st.booleans(), st.floats(0.1, 4)), max_size=40))
def test_no_start_comes_within_the_dwell_after_a_stop(moments):
    device, now_s, starts, stops = Scripted(), [0.0], [], []
    situation = [FINE]
    watch = Watch(device, LIMITS, lambda: situation[0], lambda _: None, clock=lambda: now_s[0])
    before = None
    for temp_c, forced, can_offload, dt_s in moments:
        situation[0] = replace(FINE, forced=forced, can_offload=can_offload)
        now_s[0] += dt_s
        device.telemetry = replace(FINE_DEVICE, soc_temp_c=Reading(temp_c, "", 0.0, Quality.OK, "test"))
        action = watch.look().action
        if before is not None and action is not before:
            (stops if action is Action.WAIT else starts).append(now_s[0])
        before = action
    for start_s in starts:
        assert all(start_s - stop_s >= LIMITS.min_dwell_s for stop_s in stops if stop_s <= start_s)
