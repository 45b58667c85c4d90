"""Thirty days of one device on a virtual clock: sun, a charger at night, an owner who comes and goes."""

import datetime
import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from edge_agent.budget import Cost, ahead
from edge_agent.config import Limits
from edge_agent.governor import Situation
from edge_agent.values import Action, Quality, Reading, Telemetry
from edge_agent.watch import Watch
from simulations.physics import Board, DeviceState, step

DAYS, TICK_S = 30, 60
MIDNIGHT = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
BOARD = Board(battery_j=60_000.0, body_to_air=7.0)
LIMITS = Limits(
    max_soc_temp_c=70,
    resume_soc_temp_c=62,
    max_reading_age_s=TICK_S,
    trend_s=600,
    min_seconds_to_trip=120,
    max_cpu_pressure=0.4,
    quiet_hours=("07:00-08:00",),
    min_dwell_s=300,
    max_joules_per_day=90_000,
    learner_w=BOARD.learning_w,
)


def reading(value):
    return Reading(float(value), "", 0.0, Quality.OK, "simulated")


@dataclass
class Month:
    """The device, its surroundings and what was seen of them. Nothing is saved."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    state: DeviceState = field(default_factory=lambda: DeviceState(30.0, 28.0, charge=0.6))
    now_s: float = 0.0
    pressure: float = 0.0
    own_share: float = 0.0
    credit_j: float = 0.0
    booked: dict[datetime.date, Cost] = field(default_factory=dict)
    used_j: Counter[datetime.date] = field(default_factory=Counter)
    trained_s: Counter[datetime.date] = field(default_factory=Counter)
    starts: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    hottest_c: float = 0.0
    lowest_charge_learning: float = 1.0

    @property
    def local(self):
        return MIDNIGHT + datetime.timedelta(seconds=self.now_s)

    def read(self):
        supply = (reading(self.state.charge), reading(self.state.plugged))
        more = {"trip_c": reading(85), "cpu_pressure": reading(self.pressure), "free_memory_mib": reading(900)}
        return Telemetry(reading(self.state.die_c), reading(0), *supply, **more)

    def situation(self):
        spent = self.booked.get(self.local.date(), Cost())
        return Situation(
            paused=False,
            can_learn=True,
            budget_left=True,
            release=1,
            samples=50,
            own_share=self.own_share,
            spent=spent,
            local=self.local,
        )

    def live(self, learns):
        """One tick of the world, in which the device learns or not."""
        hour, day = self.local.hour + self.local.minute / 60, self.local.date()
        ambient_c = 24 + 9 * math.sin((hour - 9) / 24 * 2 * math.pi) + self.rng.normal(0, 0.5)
        is_used = (8 <= hour < 9 or 17 <= hour < 22) and self.rng.random() < 0.6
        self.own_share = 0.25 * learns
        self.pressure = min(1.0, 0.7 * is_used + self.own_share + 0.1 * self.rng.random())
        self.state = replace(self.state, plugged=hour >= 22 or hour < 6)
        self.state = step(self.state, replace(BOARD, ambient_c=ambient_c), float(learns), TICK_S)
        if learns:
            joules = BOARD.learning_w * TICK_S
            before = self.booked.get(day, Cost())
            credit_j = self.credit_j if day in self.booked else 0.0
            self.booked[day], self.credit_j = ahead(before, credit_j, joules, LIMITS.piece_j)
            self.used_j[day] += joules
            self.trained_s[day] += TICK_S
            self.hottest_c = max(self.hottest_c, self.state.die_c)
            if not self.state.plugged:
                self.lowest_charge_learning = min(self.lowest_charge_learning, self.state.charge)
        self.now_s += TICK_S


@pytest.fixture(scope="module")
def month():
    month = Month()
    watch = Watch(month, LIMITS, month.situation, lambda _: None, clock=lambda: month.now_s)
    learned = False
    for _ in range(DAYS * 24 * 3600 // TICK_S):
        decision = watch.look()
        learns = decision.action is Action.TRAIN
        if learns and not learned:
            month.starts.append(month.now_s)
        month.reasons[decision.reason] += 1
        month.live(learns)
        learned = learns
    return month


def test_every_day_keeps_to_its_cap_in_what_was_used_and_in_what_was_booked(month):
    assert all(used_j <= LIMITS.max_joules_per_day for used_j in month.used_j.values())
    assert all(month.used_j[day] <= cost.joules <= LIMITS.max_joules_per_day for day, cost in month.booked.items())


def test_it_did_learn_on_every_day(month):
    assert len(month.trained_s) == DAYS
    assert min(month.trained_s.values()) >= 3600


def test_it_does_not_flap(month):
    starts = np.array(month.starts)
    assert np.diff(starts).min() >= LIMITS.min_dwell_s
    in_an_hour = [int(((starts >= start) & (starts < start + 3600)).sum()) for start in starts]
    assert max(in_an_hour) <= 3600 / (LIMITS.min_dwell_s + TICK_S)


def test_it_stays_cool_and_leaves_the_battery_to_the_owner(month):
    a_tick_c = 60 * (BOARD.learning_w + BOARD.idle_w) / BOARD.body_capacity  # at most, between two looks
    assert month.hottest_c < min(85.0, LIMITS.max_soc_temp_c + a_tick_c)
    a_tick = (BOARD.learning_w + BOARD.idle_w) * TICK_S / BOARD.battery_j
    assert month.lowest_charge_learning >= LIMITS.min_charge - a_tick


def test_everything_that_can_stand_against_learning_did(month):
    wanted = {"ready", "charge", "busy", "quiet", "energy_cap", "dwell"}
    assert wanted <= set(month.reasons)
    assert {"heat", "heat_soon"} & set(month.reasons)
