"""What learning is charged with: measured at the rails, else calibrated, else assumed; and the cap that follows."""

import datetime
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.budget import Cost
from edge_agent.config import Limits
from edge_agent.drivers.learner_group import LearnerGroup
from edge_agent.drivers.meter import Meter
from edge_agent.drivers.processor_time import Use
from edge_agent.drivers.sqlite_diary import SqliteDiary
from edge_agent.drivers.sqlite_store import Database
from edge_agent.energy import LEAST_READINGS, Idle, Rate, settled, used, watched
from edge_agent.governor import Situation, decide
from edge_agent.values import Quality, Reading, Reason, Telemetry

TODAY = datetime.date(2026, 5, 1)
ASSUMED = Rate(6.0, "assumed")


def rails(watts, quality=Quality.OK, age_s=0.0):
    return Reading(watts, "W", age_s, quality, "module power (VDD_IN), hwmon0/curr1_input")


BATTERY = Reading(9.0, "W", 0.0, Quality.OK, "BAT0/current_now")
SETTLED = Idle((3.0,) * LEAST_READINGS)


def test_what_the_module_draws_beyond_its_baseline_is_the_learners():
    taken = used(rails(8.0), SETTLED, 5.0, core_s=0.4, passed_s=0.5, rate=ASSUMED)
    assert taken.joules == pytest.approx(2.5)
    assert taken.source == "measured: module power (VDD_IN) beyond 3 W idle"


@pytest.mark.parametrize(
    ("power", "idle"),
    [
        (rails(8.0), Idle((3.0,) * (LEAST_READINGS - 1))),
        (rails(8.0, age_s=6.0), SETTLED),
        (rails(0.0, Quality.DENIED), SETTLED),
        (BATTERY, SETTLED),  # it also feeds a screen
    ],
)
def test_where_nothing_is_measured_the_busy_core_counts(power, idle):
    assert used(power, idle, 5.0, core_s=0.4, passed_s=0.5, rate=ASSUMED).joules == pytest.approx(2.4)


def test_a_calibration_counts_before_the_settings():
    assert settled(6.0, None).source == "assumed: 6 W for a busy core (limits.learner_w)"
    assert settled(6.0, 4.21) == Rate(4.21, "calibrated: 4.2 W for a busy core")


def test_the_baseline_is_the_lowest_tenth_of_the_last_looks_without_a_learner():
    idle = Idle()
    for watts in (*range(100, 0, -1), 50):
        idle = watched(idle, rails(float(watts)), 5.0)
    assert idle.baseline_w == 11.0
    assert watched(idle, BATTERY, 5.0) == idle
    for _ in range(2000):
        idle = watched(idle, rails(7.0), 5.0)
    assert (idle.baseline_w, len(idle.watts)) == (7.0, 1200)


@given(st.floats(0, 500), st.lists(st.floats(0, 500), max_size=40), st.floats(0, 1), st.floats(0.01, 60))
def test_energy_is_never_negative(watts, idle, core_s, passed_s):
    assert used(rails(watts), Idle(tuple(idle)), 5.0, core_s, passed_s, ASSUMED).joules >= 0


class Processor:
    """Says that a learner is busy, or not."""

    def __init__(self):
        self.use = Use()

    def look(self, *_):
        return self.use


@pytest.fixture
def meter(tmp_path):
    with closing(Database(tmp_path / "agent.db")) as database:
        yield Meter(SqliteDiary(database, 30.0), Processor(), Limits(), 4.0, LearnerGroup(tmp_path, "here"))


def telemetry(power):
    absent = Reading(0.0, "", float("inf"), Quality.ABSENT, "none")
    return Telemetry(absent, absent, absent, absent, power_w=power)


def test_a_day_is_charged_with_what_was_measured_and_the_source_is_named(meter):
    assert meter.source == "calibrated: 4 W for a busy core"
    meter._processor.use = Use(0.0, 0.0, 0.5)
    for _ in range(LEAST_READINGS):
        meter.look([7], 0, TODAY, telemetry(rails(3.0)))
    assert meter.spent(TODAY) == Cost()
    meter._processor.use = Use(0.5, 0.25, 0.5)
    for _ in range(13):
        meter.look([7], 0, TODAY, telemetry(rails(8.0)))
    assert meter.spent(TODAY).joules == 60.0  # 32.5 J, booked ahead in pieces of 30
    assert meter.source.startswith("measured: module power (VDD_IN)")
    assert meter.most_w == 5.0
    meter.look([7], 0, TODAY, telemetry(BATTERY))
    assert meter.source == "calibrated: 4 W for a busy core"


def test_a_learner_that_draws_more_than_assumed_leaves_more_of_the_cap_free():
    fine = Reading(50.0, "", 0.0, Quality.OK, "test")
    device = Telemetry(fine, *(Reading(1.0, "", 0.0, Quality.OK, "test") for _ in range(3)))
    device = Telemetry(device.soc_temp_c, Reading(0.0, "", 0.0, Quality.OK, "test"), device.charge, device.plugged)
    limits = Limits(max_joules_per_day=1000.0)
    for learner_w, spent_j, reason in (
        (0.0, 940.0, Reason.READY),
        (0.0, 941.0, Reason.ENERGY_CAP),
        (12.0, 880.0, Reason.READY),
        (12.0, 881.0, Reason.ENERGY_CAP),
    ):
        situation = Situation(
            paused=False,
            can_learn=True,
            budget_left=True,
            release=1,
            samples=99,
            spent=Cost(spent_j),
            learner_w=learner_w,
        )
        assert decide(device, limits, situation).reason is reason


def test_the_waiting_of_the_learners_own_cgroup_is_its_own(meter, tmp_path):
    meter.use = Use(0.5, 0.25, 0.5)
    assert meter.own_pressure == 0.25  # no cgroup tells, so its share of the processors stands in
    (tmp_path / "cpu.pressure").write_text("some avg10=80.00 avg60=0.00 avg300=0.00 total=1\n")
    assert meter.own_pressure == 0.8
