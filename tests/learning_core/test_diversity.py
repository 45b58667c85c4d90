import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.diversity import compare, vendi
from learning_core.memory.kernel import rbf


def normal(seed, num, scale=1.0, at=0.0):
    return (np.random.default_rng(seed).normal(size=(num, 4)) * scale + at).astype(np.float32)


def test_copies_are_one_and_strangers_are_many():
    assert vendi(np.ones((5, 5))) == pytest.approx(1)
    assert vendi(np.eye(5)) == pytest.approx(5)


def test_two_that_are_half_alike():
    """The eigenvalues of [[1, .5], [.5, 1]] / 2 are .75 and .25: exp(-.75 ln .75 - .25 ln .25)."""
    assert vendi(np.array([[1, 0.5], [0.5, 1]])) == pytest.approx(1.7548, abs=1e-4)


def test_of_nothing_there_is_none():
    assert vendi(np.zeros((0, 0))) == 0.0


@given(st.integers(0, 99), st.integers(1, 12))
def test_the_score_lies_between_one_and_the_number_and_a_copy_adds_nothing(seed, num):
    embeddings = normal(seed, num)
    similarity = rbf(embeddings)
    assert 1 - 1e-9 <= vendi(similarity) <= num + 1e-9
    assert vendi(np.kron(similarity, np.ones((2, 2)))) == pytest.approx(vendi(similarity))


def test_a_group_that_collapsed_fell_and_one_that_only_moved_did_not():
    rng = np.random.default_rng(0)
    assert compare(normal(1, 80), normal(2, 40, scale=0.3), rng).fell
    assert not compare(normal(1, 80), normal(2, 40, at=5.0), rng).fell
    assert not compare(normal(1, 40), normal(2, 40), rng).fell
    assert not compare(normal(1, 40, scale=0.3), normal(2, 40), rng).fell  # it rose


def test_equal_embeddings_on_both_sides_have_not_fallen():
    outcome = compare(np.ones((6, 2), np.float32), np.ones((6, 2), np.float32), np.random.default_rng(0))
    assert (outcome.score, outcome.reference, outcome.fell) == (pytest.approx(1), pytest.approx(1), False)


def test_too_few_embeddings_or_permutations_are_a_bug():
    with pytest.raises(ValueError, match="two embeddings on either side"):
        compare(normal(0, 9), normal(0, 1), np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot show a level"):
        compare(normal(0, 9), normal(0, 9), np.random.default_rng(0), level=0.001)
