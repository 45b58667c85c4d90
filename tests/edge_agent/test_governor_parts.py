import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.budget import Cost, ahead
from edge_agent.forecast import Trend, recent, seconds_to, trend_of
from edge_agent.hours import contains


def test_the_trend_is_the_slope_of_the_line_through_the_last_temperatures():
    trend = trend_of([(0.0, 50.0), (1.0, 53.0), (2.0, 54.0)], window_s=4.0)
    assert trend == Trend(slope_c_per_s=pytest.approx(2.0), span_s=2.0)  # (-1 * -7/3 + 1 * 5/3) / 2
    assert seconds_to(70.0, 54.0, trend) == pytest.approx(8.0)


def test_too_little_seen_is_no_trend():
    assert trend_of([], 4.0) is None
    assert trend_of([(0.0, 50.0), (2.0, 54.0)], 4.0) is None
    assert trend_of([(0.0, 50.0), (1.0, 52.0), (1.9, 54.0)], 4.0) is None


def test_what_does_not_rise_never_arrives_and_what_is_there_needs_no_time():
    assert seconds_to(70.0, 50.0, None) == seconds_to(70.0, 50.0, Trend(0.0, 9.0)) == math.inf
    assert seconds_to(70.0, 70.0, None) == 0.0


def test_old_moments_and_those_of_a_clock_that_was_set_back_are_left_out():
    assert recent([(1.0, 50.0), (5.0, 51.0), (99.0, 52.0)], 4.0, now_s=6.0) == ((5.0, 51.0),)


def test_a_window_over_midnight_belongs_to_both_days():
    assert [contains("22:00-07:00", datetime.time(hour)) for hour in (21, 22, 0, 6, 7)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert [contains("12:00-13:30", datetime.time(*at)) for at in ((11, 59), (12, 0), (13, 29), (13, 30))] == [
        False,
        True,
        True,
        False,
    ]


def test_a_cost_is_never_negative():
    for odd in ({"joules": -1.0}, {"joules": math.nan}, {"bytes": -1}):
        with pytest.raises(ValueError, match="never negative"):
            Cost(**odd)


def test_energy_is_booked_before_it_is_used():
    spent, credit_j = ahead(Cost(), 0.0, 3.0, piece_j=30.0)
    assert (spent, credit_j) == (Cost(30.0), 27.0)
    assert ahead(spent, credit_j, 26.0, 30.0) == (Cost(30.0), 1.0)
    assert ahead(spent, credit_j, 27.0, 30.0) == (Cost(60.0), 30.0)
    assert ahead(spent, credit_j, 0.0, 30.0) == (spent, credit_j)


@given(st.lists(st.floats(0, 1e3), max_size=30), st.floats(0.5, 100))
def test_what_is_booked_covers_what_was_used_by_at_most_one_piece(uses, piece_j):
    spent, credit_j = Cost(), 0.0
    for joules in uses:
        spent, credit_j = ahead(spent, credit_j, joules, piece_j)
    assert -1e-6 <= spent.joules - sum(uses) <= piece_j * (1 + 1e-6) + 1e-6
