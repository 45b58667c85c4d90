import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.surprise import Reader, learn, surprise


def test_one_sample_of_length_one_is_fitted_by_half_when_the_ridge_is_one():
    reader = learn(Reader.ignorant(2, 2, ridge=1.0), np.array([1, 0], np.float32), 0)
    np.testing.assert_allclose(reader.weights, [[0.5, 0], [0, 0]])
    np.testing.assert_allclose(reader.covariance, [[0.5, 0], [0, 1]])
    assert surprise(reader, np.array([1, 0], np.float32), 0) == pytest.approx(-0.5)
    assert surprise(reader, np.array([1, 0], np.float32), 1) == pytest.approx(0.5)


@given(st.integers(1, 20), st.integers(0, 1000))
def test_learning_one_by_one_is_the_ridge_regression_on_all(count, seed):
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(count, 4)).astype(np.float32), rng.integers(0, 3, count)
    reader = Reader.ignorant(4, 3, ridge=2.0)
    for row, label in zip(rows, labels, strict=True):
        reader = learn(reader, row, int(label))
    expected = np.linalg.solve(rows.T @ rows + 2 * np.eye(4), rows.T @ np.eye(3)[labels])
    np.testing.assert_allclose(reader.weights, expected, atol=1e-4)


def test_who_knows_nothing_or_only_one_condition_is_not_surprised():
    assert surprise(Reader.ignorant(3, 2), np.ones(3, np.float32), 1) == 0.0
    assert surprise(Reader.ignorant(3, 1), np.ones(3, np.float32), 0) == 0.0
