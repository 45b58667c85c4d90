import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.federation.accountant import Spending, epsilon
from learning_core.methods.analytic import (
    EXACT_BELOW,
    GRID,
    Statistics,
    bounded_statistics,
    centred_units,
    generalised_cross_validation,
    lda,
    noised,
    on_grid,
    relu_features,
    ridge,
    solve,
    squared_error,
    statistics_of,
    total,
)

CLASSES = 4


def blobs(seed: int, number: int = 60, apart: float = 2.0):
    """Points around four centres in six dimensions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, number)
    centres = np.random.default_rng(99).normal(0, apart, (CLASSES, 6))
    return on_grid(centres[labels] + rng.standard_normal((number, 6))), labels


def same(left: Statistics, right: Statistics) -> bool:
    pairs = ((left.gram, right.gram), (left.cross, right.cross), (left.counts, right.counts))
    return all(np.array_equal(one, other) for one, other in pairs)


def nothing() -> Statistics:
    return statistics_of(np.zeros((0, 6)), np.zeros(0, np.int64), CLASSES)


def test_the_sums_of_two_samples_are_these():
    sums = statistics_of(np.array([[1.0, 2.0], [3.0, 0.5]]), np.array([0, 1]), 2)
    np.testing.assert_array_equal(sums.gram, [[1 + 9, 2 + 1.5], [2 + 1.5, 4 + 0.25]])
    np.testing.assert_array_equal(sums.cross, [[1, 3], [2, 0.5]])
    np.testing.assert_array_equal(sums.counts, [1, 1])
    assert (sums.num_bytes, sums.message_bytes) == (8 * (4 + 4 + 2), 8 * (3 + 4 + 2))


def test_a_ridge_head_on_four_points_of_a_line_is_this_one():
    # x = -1, -1 are class 0 and x = 1, 1 class 1: centred sums are 4 for x x and -2, 2 for x y.
    x, y = np.array([[-1.0], [-1.0], [1.0], [1.0]]), np.array([0, 0, 1, 1])
    head = ridge(statistics_of(x, y, 2), strength=1.0)  # of the mean squared feature sum, 4
    np.testing.assert_allclose(head.weights, [[-2 / 8, 2 / 8]])
    np.testing.assert_allclose(head.bias, [0.5, 0.5])
    np.testing.assert_allclose(head.logits(np.array([[1.0]])), [[0.25, 0.75]])


def test_an_lda_head_is_pooled_covariance_and_class_means():
    x, y = np.array([[-3.0], [-1.0], [1.0], [3.0]]), np.array([0, 0, 1, 1])  # means -2 and 2, variance 1
    head = lda(statistics_of(x, y, 2), shrinkage=0.0)
    np.testing.assert_allclose(head.weights, [[-2, 2]])
    np.testing.assert_allclose(head.bias, [-2, -2])


@given(st.integers(0, 999), st.integers(1, 7), st.randoms(use_true_random=False))
def test_any_nodes_in_any_order_give_the_same_bits(seed, nodes, shuffle):
    features, labels = blobs(seed)
    owner = np.random.default_rng(seed).integers(0, nodes, len(labels))
    parts = [statistics_of(features[owner == node], labels[owner == node], CLASSES) for node in range(nodes)]
    shuffle.shuffle(parts)
    assert same(total(parts), statistics_of(features, labels, CLASSES))


@given(st.integers(0, 999), st.integers(1, 59))
def test_an_unlearned_sample_leaves_no_trace_in_any_bit(seed, cut):
    features, labels = blobs(seed)
    kept, forgotten = (statistics_of(features[part], labels[part], CLASSES) for part in (slice(cut), slice(cut, None)))
    assert same(kept.plus(forgotten).minus(forgotten), kept)


def test_what_was_never_learned_cannot_be_unlearned():
    with pytest.raises(ValueError, match="more to unlearn"):
        nothing().minus(statistics_of(*blobs(0), CLASSES))


def test_sums_that_could_round_are_refused():
    with pytest.raises(ValueError, match="not on the grid"):
        statistics_of(np.array([[GRID / 3]]), np.array([0]), 1)
    with pytest.raises(ValueError, match="too large"):
        statistics_of(np.array([[EXACT_BELOW**0.5 + 1]]).round(), np.array([0]), 1)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        statistics_of(np.zeros((1, 6)), np.array([CLASSES]), CLASSES)


@pytest.mark.parametrize("head_of", [partial(ridge, strength=0.1), partial(lda, shrinkage=0.1)])
def test_a_head_learns_and_never_answers_a_class_without_samples(head_of):
    features, labels = blobs(1)
    seen = labels != 2
    head = head_of(statistics_of(features[seen], labels[seen], CLASSES))
    unseen, wanted = blobs(2, 400)
    answers = head.logits(unseen).argmax(axis=1)
    assert 2 not in answers
    assert (answers == wanted)[wanted != 2].mean() > 0.9
    before = head_of(nothing()).logits(unseen)
    assert np.isneginf(before).all()


def test_one_sample_is_answered_with_its_class():
    head = ridge(statistics_of(on_grid([[0.5, -1.0]]), np.array([1]), 3), 0.1)
    assert head.logits(np.array([[9.0, 9.0]])).argmax() == 1


def test_solving_in_blocks_solves():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((600, 700))
    gram, right = factor @ factor.T, rng.standard_normal((600, 3))
    np.testing.assert_allclose((gram + 5 * np.eye(600)) @ solve(gram, 5.0, right), right, atol=1e-8)


def test_the_error_on_held_out_samples_needs_only_their_sums():
    head = ridge(statistics_of(*blobs(0), CLASSES), 0.1)
    features, labels = blobs(1)
    direct = np.square(features @ head.weights + head.bias - np.eye(CLASSES)[labels]).sum(axis=1).mean()
    assert squared_error(head, statistics_of(features, labels, CLASSES)) == pytest.approx(direct, rel=1e-9)
    with pytest.raises(ValueError, match="held-out"):
        squared_error(head, nothing())


def test_cross_validation_without_samples_is_that_of_the_hat_matrix():
    features, labels = blobs(3, 30, apart=0.3)
    sums, strength = statistics_of(features, labels, CLASSES), 0.5
    x = features - features.mean(axis=0)
    penalty = strength * np.trace(x.T @ x) / 6 * np.eye(6)
    hat = x @ np.linalg.solve(x.T @ x + penalty, x.T) + 1 / 30
    residual = (np.eye(30) - hat) @ np.eye(CLASSES)[labels]
    expected = np.square(residual).sum(axis=1).mean() / (1 - np.trace(hat) / 30) ** 2
    assert generalised_cross_validation(sums, strength) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_strength_is_chosen_from_sums_alone(held_out):
    features, labels = blobs(3, 20, apart=0.05)  # hopeless: the more is shrunk, the better
    sums = statistics_of(features, labels, CLASSES)
    other = statistics_of(*blobs(4, 200, apart=0.05), CLASSES)
    score = (
        (lambda s: squared_error(ridge(sums, s), other)) if held_out else partial(generalised_cross_validation, sums)
    )
    assert min((1e-3, 1e3), key=score) == 1e3


def test_random_features_separate_what_no_line_does():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    lift = relu_features(2, 64, seed=1)
    right = {
        name: (ridge(statistics_of(phi, labels, 2), 1e-3).logits(phi).argmax(axis=1) == labels).mean()
        for name, phi in {"line": on_grid(x), "lifted": lift(x)}.items()
    }
    assert right["lifted"] > 0.95
    assert right["line"] < 0.7
    assert (lift(x) >= 0).all()


def test_random_directions_are_orthogonal_in_blocks_and_exact():
    lift, eye = relu_features(64, 128, seed=3), np.eye(64, dtype=np.float32)
    weights = lift(eye) - lift(-eye)
    for block in (weights[:, :64], weights[:, 64:]):
        assert np.array_equal(block.T @ block, 64 * np.eye(64))
    assert not np.array_equal(weights[:, :64], weights[:, 64:])
    assert weights.std() == pytest.approx(1, abs=0.01)


def test_one_embedding_has_the_same_features_to_the_bit_in_any_company():
    x = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32)
    together, again = relu_features(300, 70, seed=1)(x), relu_features(300, 70, seed=1)
    assert np.array_equal(np.concatenate([again(x[[row]]) for row in range(50)]), together)
    assert not np.array_equal(relu_features(300, 70, seed=2)(x), together)


def test_units_are_taken_piece_by_piece_about_the_centre():
    rows = np.float32([[4, 5, 1, 3], [1, 1, 1, 1]])
    units = centred_units(rows, np.float32([1, 1, 1, 1]), parts=2)
    np.testing.assert_allclose(units * math.sqrt(2), [[0.6, 0.8, 0, 1], [0, 0, 0, 0]], atol=1e-6)


@given(st.integers(0, 999), st.floats(0.1, 4.0))
def test_one_sample_more_moves_the_released_sums_by_at_most_the_sensitivity(seed, bound):
    features, labels = blobs(seed, 5)
    with_all = bounded_statistics(features, labels, CLASSES, bound)
    without = bounded_statistics(features[1:], labels[1:], CLASSES, bound)
    change = with_all.sums.minus(without.sums)
    moved = math.sqrt(sum(np.square(part).sum() for part in (np.triu(change.gram), change.cross, change.counts)))
    assert moved <= with_all.sensitivity


def test_a_sample_along_one_feature_moves_them_by_exactly_that_much():
    one = bounded_statistics(np.array([[8.0, 0.0]]), np.array([0]), 1, bound=2.0)
    assert one.sensitivity == math.sqrt(16 + 4 + 1)
    assert one.sums.gram[0, 0] == (2 - GRID) ** 2  # shortened to just below 2, and then cut to the grid


def test_broken_rows_count_as_zero_and_bounds_have_to_agree():
    broken = bounded_statistics(np.array([[np.nan, 1.0]]), np.array([0]), 1, 1.0)
    assert not broken.sums.gram.any()
    with pytest.raises(ValueError, match="same bound"):
        broken.plus(bounded_statistics(np.array([[1.0, 1.0]]), np.array([0]), 1, 2.0))
    with pytest.raises(ValueError, match="positive"):
        bounded_statistics(np.zeros((1, 2)), np.array([0]), 1, 0.0)


def test_noise_has_the_stated_size_and_costs_what_the_accountant_says():
    empty = bounded_statistics(np.zeros((0, 60)), np.zeros(0, np.int64), 200, 1.0)
    released = noised(empty, 2.0, np.random.default_rng(0))
    assert released.sums.cross.std() == pytest.approx(2 * math.sqrt(3), rel=0.05)
    spent = epsilon([Spending(released.noise_multiplier, 1.0, 1)], 1e-5)
    assert 1 < spent < math.inf
    with pytest.raises(ValueError, match="negative"):
        noised(empty, -1.0, np.random.default_rng(0))


def test_noised_sums_still_solve_and_without_noise_they_are_the_sums():
    features, labels = blobs(0, 4000)
    bounded = bounded_statistics(features, labels, CLASSES, 3.0)
    exact, private = (noised(bounded, z, np.random.default_rng(1)).sums for z in (0.0, 1.0))
    np.testing.assert_allclose(exact.gram, bounded.sums.gram, rtol=1e-9, atol=1e-6)
    fresh, wanted = blobs(5, 500)
    assert (ridge(private, 0.1).logits(fresh).argmax(axis=1) == wanted).mean() > 0.9


@given(st.integers(0, 999), st.integers(0, 20))
def test_a_head_can_be_solved_from_noised_sums_however_few_the_samples(seed, number):
    features, labels = blobs(seed, number)
    released = noised(bounded_statistics(features, labels, CLASSES, 1.0), 3.0, np.random.default_rng(seed))
    assert np.isfinite(ridge(released.sums, 0.01).weights).all()
