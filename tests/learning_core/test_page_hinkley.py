import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.page_hinkley import Rule, Watched, step

RULE = Rule()


def alarms(stream, rule=RULE):
    watched, found = Watched(), []
    for at, value in enumerate(stream):
        watched, alarm = step(watched, float(value), rule)
        if alarm:
            found.append(at)
    return found


def test_a_sum_rises_by_the_distance_less_the_tolerance_in_standard_deviations():
    usual = Watched(count=101, mean=10.0, squares=400.0)  # one standard deviation is 2
    watched, alarm = step(usual, 14.0, RULE)
    assert (watched.risen, watched.fallen, alarm) == (pytest.approx(2 - 0.15), 0.0, False)
    watched, _ = step(usual, 9.0, RULE)
    assert (watched.risen, watched.fallen) == (0.0, pytest.approx(0.5 - 0.15))


def test_one_outlier_counts_for_four_standard_deviations_at_most():
    watched, alarm = step(Watched(101, 10.0, 400.0), 1e9, RULE)
    assert (watched.risen, alarm) == (pytest.approx(3.85), False)


def test_a_sum_above_the_threshold_alarms_and_the_watch_starts_anew():
    assert step(Watched(101, 10.0, 400.0, risen=21.0), 14.0, RULE) == (Watched(), True)


def test_mean_and_spread_are_those_of_the_whole_stream():
    watched = Watched()
    for value in (1.0, 2.0, 6.0):
        watched, _ = step(watched, value, RULE)
    assert (watched.count, watched.mean, watched.squares) == (3, pytest.approx(3), pytest.approx(14))


def test_a_constant_stream_never_alarms():
    assert alarms(np.ones(500)) == []


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_lasting_shift_to_either_side_alarms_once(sign):
    stream = np.random.default_rng(0).normal(size=1500) + sign * (np.arange(1500) >= 1000)
    (at,) = alarms(stream)
    assert 1000 <= at < 1060


@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 20))
def test_scale_and_offset_of_the_stream_do_not_matter(scale, offset, seed):
    stream = np.random.default_rng(seed).normal(size=300) + 2 * (np.arange(300) >= 200)
    assert alarms(stream * scale + offset) == alarms(stream)
