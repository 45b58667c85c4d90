import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.metrics.golden import (
    FEWEST_KEPT,
    HARMS,
    NOT_FINITE,
    Figures,
    agreement,
    bounds,
    figures,
    harms,
    nearness,
    resolution,
    tolerance_factor,
)
from learning_core.metrics.images import leave_one_out_ratio

BASE = Figures(0.98, 0.01, 0.02, 0.95)


def test_the_base_has_done_itself_no_harm():
    assert harms(BASE, BASE)[:4].tolist() == [0, 0, 0, 0]


def test_harm_is_what_got_worse_by_how_much():
    found = harms(Figures(0.9, 0.11, 0.05, 0.75, nearness=0.5), BASE)
    assert dict(zip(HARMS, found.round(6), strict=True)) == {
        "fidelity": pytest.approx(0.08),
        "kid": pytest.approx(0.1),
        "out_of_range": pytest.approx(0.03),
        "agreement": pytest.approx(0.2),
        "memorising": pytest.approx(math.log(2), abs=1e-6),
    }


def test_what_is_not_told_is_nan_and_a_copy_is_as_bad_as_can_be():
    assert math.isnan(harms(BASE, BASE)[4])
    assert harms(Figures(1, 0, 0, 1, nearness=0.0), BASE)[4] > 20


def test_rows_that_point_the_same_way_agree_whatever_their_length():
    rows = np.array([[1.0, 2.0], [0.0, 3.0]], np.float32)
    assert agreement(rows, 5 * rows) == pytest.approx(1)
    assert agreement(rows, -rows) == pytest.approx(-1)
    assert agreement(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]) == pytest.approx(0)
    assert agreement(np.zeros((2, 2), np.float32), rows) == 0


def test_a_sample_that_is_not_finite_makes_all_figures_say_so():
    good, bad = np.zeros((2, 3), np.float32), np.full((2, 3), np.inf, np.float32)
    assert figures(bad, good, good, np.array([0, 1]), good, good) is NOT_FINITE
    assert figures(good, good, bad, np.array([0, 1]), good, good) is NOT_FINITE


def test_the_factor_of_a_tolerance_bound_is_the_one_in_the_tables():
    assert tolerance_factor(6, 0.99, 0.95) == pytest.approx(5.062, rel=0.01)  # Odeh and Owen 1980, table 1
    assert tolerance_factor(43, 0.9, 0.99) == pytest.approx(1.8752, abs=1e-3)  # NIST handbook 7.2.6.3
    with pytest.raises(ValueError, match="too few"):
        tolerance_factor(4, 0.99)


def test_a_bound_is_mean_and_factor_times_spread_of_healthy_updates_and_no_finer_than_can_be_told():
    healthy = np.array([[0.0, 1.0]] * 3 + [[0.0, 3.0]] * 3)
    most = bounds(healthy, np.array([0.01, 0.01]), together=5)
    assert most[0] == 0.01
    assert most[1] == pytest.approx(2 + tolerance_factor(6, 0.99) * healthy[:, 1].std(ddof=1))


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=30), st.floats(0, 1), st.integers(1, 30))
def test_a_bound_lies_above_the_mean_moves_with_it_and_is_wider_for_more_bounds_together(values, shift, together):
    healthy, finest = np.array(values)[:, None], np.array([-9.0])
    most = bounds(healthy, finest, together)
    assert most >= healthy.mean() - 1e-9
    np.testing.assert_allclose(bounds(healthy + shift, finest, together), most + shift, atol=1e-9)
    assert bounds(healthy, finest, together + 1) >= most - 1e-9


def test_one_sample_of_the_golden_set_is_the_least_that_counts():
    assert resolution(50, 200, np.zeros((2, 3), np.float32))[[0, 2, 3]].tolist() == [0.02, 0.005, 0.02]


def test_a_copy_comes_nearer_than_samples_come_to_each_other():
    rng = np.random.default_rng(0)
    kept, fresh = rng.normal(size=(2, 200, 2)).astype(np.float32)
    assert leave_one_out_ratio(kept, kept) == pytest.approx(0, abs=1e-3)
    assert leave_one_out_ratio(fresh, kept) == pytest.approx(1, abs=0.25)
    assert nearness(fresh, kept) == leave_one_out_ratio(fresh, kept)


def test_from_too_few_samples_or_copies_of_one_nothing_is_told():
    rng = np.random.default_rng(0)
    kept = rng.normal(size=(FEWEST_KEPT, 3)).astype(np.float32)
    assert nearness(kept, kept[1:]) is None
    assert nearness(kept[:0], kept) is None
    assert leave_one_out_ratio(kept, np.repeat(kept[:1], 20, axis=0)) is None
    with pytest.raises(ValueError, match="at least"):
        leave_one_out_ratio(kept, kept[:1])
