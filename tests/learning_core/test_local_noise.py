import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from learning_core.federation.accountant import Spending, epsilon
from learning_core.federation.local_noise import cost, noise_deviation, noised
from learning_core.samples import Batch


def batch(rows, values=4):
    rng = np.random.default_rng(0)
    return Batch(rng.uniform(-1, 1, (rows, 1, 2, values // 2)).astype(np.float32), np.arange(rows) % 3)


def test_the_noise_on_each_feature_has_the_deviation_it_is_said_to_have():
    assert noise_deviation(8.0, 0.1) == pytest.approx(0.1 * 8 * math.sqrt(2))
    nothing = Batch(np.zeros((20_000, 4), np.float32), np.zeros(20_000, np.int64))
    drawn = noised(nothing, 3, 8.0, 0.1, np.random.default_rng(1))
    assert drawn.features.std() == pytest.approx(noise_deviation(8.0, 0.1), rel=0.01)


def test_a_sample_longer_than_the_clip_is_shortened_to_it_and_a_shorter_one_is_not():
    samples = Batch(np.array([[30.0, 40.0], [0.3, 0.4]], np.float32), np.zeros(2, np.int64))
    drawn = noised(samples, 2, 5.0, 1e-9, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.features, [[3.0, 4.0], [0.3, 0.4]], atol=1e-6)


def test_a_class_is_noised_too():
    samples = Batch(np.zeros((5000, 1), np.float32), np.full(5000, 2))
    assert (noised(samples, 10, 1.0, 0.01, np.random.default_rng(0)).conditions == 2).all()
    hidden = noised(samples, 10, 1.0, 100.0, np.random.default_rng(0)).conditions
    assert np.bincount(hidden, minlength=10).max() < 600  # a tenth each, as near as makes no matter


def test_many_samples_cost_what_as_many_rounds_with_the_same_noise_would():
    assert cost(16, 0.4) == Spending(0.1, 1.0, 1)
    for count in (1, 4, 50):
        together, apart = epsilon([cost(count, 3.0)], 1e-5), epsilon([Spending(3.0, 1.0, count)], 1e-5)
        assert together == pytest.approx(apart)


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 4)), elements=st.floats(width=32)
    ),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
)
def test_whatever_comes_in_what_comes_out_is_finite_of_the_same_shape_and_of_known_classes(features, clip_norm, noise):
    conditions = np.arange(len(features)) % 4
    drawn = noised(Batch(features, conditions), 4, clip_norm, noise, np.random.default_rng(0))
    assert drawn.features.shape == features.shape
    assert np.isfinite(drawn.features).all()
    assert ((drawn.conditions >= 0) & (drawn.conditions < 4)).all()


def test_a_sample_that_is_no_number_counts_as_nothing():
    odd = Batch(np.array([[np.nan, 1.0], [np.inf, 1.0]], np.float32), np.zeros(2, np.int64))
    nothing = Batch(np.zeros((2, 2), np.float32), np.zeros(2, np.int64))
    drawn, bare = (noised(each, 2, 1.0, 0.5, np.random.default_rng(3)).features for each in (odd, nothing))
    np.testing.assert_array_equal(drawn, bare)


@pytest.mark.parametrize(
    ("clip_norm", "noise"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0), (math.inf, 1.0), (1.0, math.nan)]
)
def test_without_noise_or_without_a_clip_nothing_is_noised(clip_norm, noise):
    with pytest.raises(ValueError, match="positive"):
        noised(batch(2), 3, clip_norm, noise, np.random.default_rng(0))


def test_no_samples_are_no_charge():
    with pytest.raises(ValueError, match="nothing to charge"):
        cost(0, 1.0)
