import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.healing.signals import Signal
from edge_agent.healing.thresholds import ROBUST, Rule, Window, calm, limit, step, steps

RULE = Rule(warm_up=10)


def watched(values, signal=Signal.ANCHOR, rule=RULE):
    """The window after these values, and the places at which it tripped."""
    window, tripped = Window(), []
    for place, value in enumerate(values):
        window, trips = step(window, signal, float(value), rule)
        if trips:
            tripped.append(place)
    return window, tripped


def healthy(count, seed=0):
    return np.random.default_rng(seed).normal(0.2, 0.02, count)


def test_a_limit_by_hand():
    # median 2, deviations 2, 1, 0, 1, 2: median 1; the largest is 4
    assert limit((0.0, 1.0, 2.0, 3.0, 4.0), Rule(quantile=1.0), 2.0, 0.5) == pytest.approx(4 + 2 * ROBUST + 0.5)


def test_nothing_trips_before_it_is_known_what_is_usual():
    assert watched([5.0] * 10)[1] == []


def test_two_of_three_trip_and_one_alone_does_not():
    usual = list(healthy(30))
    assert watched([*usual, 0.9, *usual])[1] == []
    assert watched([*usual, 0.9, 0.2, 0.9])[1] == [32]
    assert watched([*usual, 0.9, 0.9])[1] == [31]
    assert watched([*usual, 0.9], rule=Rule(warm_up=10, needed=1, of=1))[1] == [30]


def test_what_breaches_is_not_learned_from():
    window, tripped = watched([*healthy(30), *[0.9] * 50])
    assert tripped == list(range(31, 80))
    assert max(window.recent) < 0.5


def test_a_moving_limit_alone_would_follow_a_ramp_and_the_anchored_one_does_not():
    ramp = 0.2 + 0.004 * np.arange(60) + np.random.default_rng(3).normal(0, 0.02, 60)
    _, tripped = watched([*healthy(60), *ramp])
    assert tripped
    assert tripped[0] < 60 + 35


@pytest.mark.parametrize("seed", range(5))
def test_healthy_signals_seldom_trip(seed):
    assert len(watched(healthy(500, seed))[1]) <= 5


def test_exact_signals_need_no_history_and_files_no_second_look():
    assert watched([0.0, 0.5, 0.5], Signal.PROBE)[1] == [2]
    assert watched([0.0, 1.0], Signal.FILES)[1] == [1]


def test_a_calmed_window_needs_new_breaches():
    window, _ = watched([*healthy(30), 0.9, 0.9])
    after = calm({Signal.ANCHOR: window})[Signal.ANCHOR]
    assert after.first == window.first
    assert not step(after, Signal.ANCHOR, 0.9, RULE)[1]


def test_fixed_limits_take_the_place_of_learned_ones():
    rule = Rule(fixed=dict.fromkeys(Signal, 0.5))
    assert watched([0.4, 0.4, 0.6, 0.6], rule=rule)[1] == [3]


def test_a_tick_moves_only_the_signals_it_knows():
    windows, tripped = steps({}, {Signal.ANCHOR: 0.1, Signal.FILES: 1.0}, RULE)
    assert set(windows) == {Signal.ANCHOR, Signal.FILES}
    assert tripped == (Signal.FILES,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), max_size=120))
def test_histories_are_bounded(values):
    window, _ = watched(values)
    assert len(window.first) <= RULE.warm_up
    assert len(window.recent) <= RULE.window
    assert len(window.breaches) <= RULE.of
