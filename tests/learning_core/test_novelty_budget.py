import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.keep_budget import MEMORY, MOST_CREDIT, Running, Threshold


def running(values):
    state = Running()
    for value in values:
        state = state.plus(value)
    return state


def test_the_running_moments_of_one_three_five_are_three_and_eight_thirds():
    state = running([1.0, 3.0, 5.0])
    assert (state.mean, state.variance, state.seen) == pytest.approx((3, 8 / 3, 3))
    assert state.standard(3 + 2 * np.sqrt(8 / 3)) == pytest.approx(2)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=MEMORY))
def test_until_they_forget_they_are_the_moments_of_everything_seen(values):
    state = running(values)
    assert state.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert state.variance == pytest.approx(np.var(values), abs=1e-5, rel=1e-6)


def test_where_everything_is_equal_nothing_stands_out():
    assert running([2.0] * 5).standard(9.0) == 0.0
    assert Running().standard(9.0) == 0.0


def test_the_bar_starts_at_the_normal_quantile_of_the_share():
    assert Threshold().bar(0.5) == pytest.approx(0)
    assert Threshold().bar(0.1) == pytest.approx(1.2816, abs=1e-4)


def test_a_sample_too_many_raises_the_bar_by_a_twentieth_of_a_spread():
    assert Threshold(ahead=1).bar(0.5) == pytest.approx(0.05)
    assert Threshold().after(keep=True, keep_share=0.3).ahead == pytest.approx(0.7)
    assert Threshold().after(keep=False, keep_share=0.3).ahead == pytest.approx(-0.3)


def test_a_share_of_one_keeps_whatever_was_kept_before():
    assert Threshold(ahead=1e6).bar(1.0) == float("-inf")


def test_credit_lapses_and_debt_does_not():
    assert Threshold(ahead=-MOST_CREDIT).after(keep=False, keep_share=0.5).ahead == -MOST_CREDIT
    assert Threshold(ahead=1000).after(keep=True, keep_share=0.5).ahead == 1000.5


def test_the_share_is_met_although_the_scores_fall_a_thousandfold():
    rng, state, scores, kept = np.random.default_rng(1), Threshold(), Running(), 0
    for step in range(3000):
        score = float(rng.normal() * 10 ** (-step / 1000))
        scores = scores.plus(score)
        keep = scores.standard(score) >= state.bar(0.2)
        kept, state = kept + keep, state.after(keep, 0.2)
    assert kept / 3000 == pytest.approx(0.2, abs=0.01)
