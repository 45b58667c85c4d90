import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.out_of_scope import Gaussians, known_scope, relative_mahalanobis, strangeness


def blobs(rng, count, centres):
    labels = rng.integers(0, len(centres), count)
    return (centres[labels] + rng.normal(size=(count, centres.shape[1])) * 0.3).astype(np.float32), labels


def test_the_relative_distance_is_to_the_nearest_mean_less_to_the_centre():
    eye = np.eye(2, dtype=np.float32)
    means = np.array([[3, 0], [-3, 0]], np.float32)
    known = Gaussians(means, eye, np.zeros(2, np.float32), eye / 2)
    # at (3, 4): 16 to the nearest mean, (9 + 16) / 4 to the centre, whose Gaussian is twice as wide
    assert relative_mahalanobis(known, np.array([[3, 4]], np.float32)) == pytest.approx([16 - 25 / 4])


@given(st.integers(0, 100))
def test_what_lies_between_the_known_conditions_is_stranger_than_they_are(seed):
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(6)[:5]
    rows, labels = blobs(rng, 100, centres)
    inside, _ = blobs(rng, 40, centres)
    held_out, _ = blobs(rng, 40, centres)
    outside = (4 * np.eye(6)[5] + rng.normal(size=(40, 6)) * 0.3).astype(np.float32)
    scope = known_scope(rows, labels, held_out)
    assert strangeness(scope, inside).max() < strangeness(scope, outside).min()


def test_a_low_logit_makes_a_query_stranger():
    rng = np.random.default_rng(0)
    rows, labels = blobs(rng, 60, 4 * np.eye(4))
    logits = rng.normal(size=(60, 4)).astype(np.float32)
    scope = known_scope(rows, labels, rows, logits)
    query = rows[:1]
    sure, unsure = (strangeness(scope, query, np.full((1, 4), top, np.float32))[0] for top in (3, -3))
    assert unsure > sure


def test_one_known_sample_tells_nothing_apart_and_no_query_has_no_score():
    one = np.ones((1, 3), np.float32)
    scope = known_scope(one, np.zeros(1, np.int64), one)
    assert strangeness(scope, one[:0]).shape == (0,)
    assert strangeness(scope, np.vstack((one, -one))) == pytest.approx([0, 0])
