import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.drift import shift
from learning_core.memory.kernel import rbf


def groups(seed, num, rest, moved):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, 4)).astype(np.float32), (rng.normal(size=(rest, 4)) + moved).astype(np.float32)


def test_two_pairs_a_unit_apart():
    """Pairs (0, 0) and (1, 1): distances 0, 0, 1, 1, 1, 1, median 1, so across lies exp(-1/2) and within 1."""
    outcome = shift(
        np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32), np.random.default_rng(0), level=0.5, permutations=99
    )
    assert outcome.discrepancy == pytest.approx(1 + 1 - 2 * np.exp(-0.5))


def test_a_moved_group_is_told_from_one_that_stayed():
    rng = np.random.default_rng(0)
    stayed, moved = shift(*groups(0, 100, 50, 0.0), rng), shift(*groups(0, 100, 50, 1.0), rng)
    assert (stayed.drifted, moved.drifted) == (False, True)
    assert moved.p_value == pytest.approx(1 / 400)
    assert 5 * abs(stayed.discrepancy) < 0.05 < moved.discrepancy


def test_false_alarms_are_as_rare_as_the_level_says():
    rng = np.random.default_rng(1)
    found = sum(shift(*groups(seed, 20, 20, 0.0), rng, level=0.1, permutations=59).drifted for seed in range(300))
    assert found == pytest.approx(30, abs=21)  # four standard deviations


@given(st.integers(0, 50), st.floats(0.01, 100), st.floats(-10, 10))
def test_scale_and_place_of_the_embeddings_do_not_matter(seed, scale, offset):
    reference, current = groups(seed, 6, 5, 0.5)
    one = shift(reference, current, np.random.default_rng(0), level=0.05, permutations=19)
    other = shift(reference * scale + offset, current * scale + offset, np.random.default_rng(0), 0.05, 19)
    assert other.discrepancy == pytest.approx(one.discrepancy, abs=1e-3)


def test_equal_embeddings_do_not_drift():
    outcome = shift(np.ones((5, 3), np.float32), np.ones((4, 3), np.float32), np.random.default_rng(0))
    assert (outcome.discrepancy, outcome.p_value, outcome.drifted) == (pytest.approx(0), 1.0, False)


def test_too_few_embeddings_or_permutations_are_a_bug():
    one = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="two embeddings on either side, not 1 and 1"):
        shift(one, one, np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot show a level"):
        shift(*groups(0, 3, 3, 0.0), np.random.default_rng(0), level=0.001, permutations=99)


def test_the_kernel_is_a_half_where_the_distance_is_the_median_times_the_root_of_two_ln_two():
    apart = np.sqrt(2 * np.log(2))
    kernel = rbf(np.array([[0.0], [1.0], [1 + apart], [1 + 2 * apart]], np.float32))
    assert kernel.diagonal().tolist() == [1, 1, 1, 1]
    distances = np.sort(np.array([1, apart, apart, 1 + apart, 2 * apart, 1 + 2 * apart]))
    width = np.sqrt((distances[2] ** 2 + distances[3] ** 2) / 2)
    assert kernel[1, 2] == pytest.approx(np.exp(-(apart**2) / (2 * width**2)), rel=1e-5)


@pytest.mark.parametrize("num", [0, 1])
def test_a_kernel_of_none_or_one(num):
    assert rbf(np.zeros((num, 2), np.float32)).tolist() == [[1.0]] * num
