import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.metrics.images import (
    class_fidelity,
    diversity,
    fid,
    flicker,
    kid,
    nearest_neighbour_ratio,
    out_of_range_share,
    per_condition_fidelity,
    ssim,
)


def test_fidelity_counts_what_the_judge_takes_for_what_was_asked():
    logits = np.array([[2, 1, 0], [0, 3, 1], [0, 1, 5], [9, 0, 0]], np.float32)
    assert class_fidelity(logits, [0, 1, 2, 2]) == 0.75
    assert per_condition_fidelity(logits, [0, 1, 2, 2]) == {0: 1.0, 1: 1.0, 2: 0.5}


def test_an_image_the_judge_cannot_score_counts_as_wrong():
    logits = np.array([[np.nan, np.nan], [np.nan, np.nan], [1, 0]], np.float32)
    assert per_condition_fidelity(logits, [0, 1, 0]) == {0: 0.5, 1: 0.0}


def test_fidelity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one row of logits"):
        class_fidelity(np.zeros((0, 3), np.float32), [])


def test_the_class_means_average_to_the_whole_when_classes_are_balanced():
    rng = np.random.default_rng(0)
    logits, asked = rng.normal(size=(60, 3)).astype(np.float32), np.repeat([0, 1, 2], 20)
    assert np.mean(list(per_condition_fidelity(logits, asked).values())) == pytest.approx(class_fidelity(logits, asked))


def test_kid_of_two_pairs_of_points_can_be_done_by_hand():
    # d = 1, kernel (xy + 1)^3: within {1, -1}: k(1, -1) = 0; within {0, 0}: 1; across: 1 everywhere -> 0 + 1 - 2.
    assert kid(np.array([[1.0], [-1.0]], np.float32), np.zeros((2, 1), np.float32)) == pytest.approx(-1.0)


def test_kid_is_around_zero_for_one_distribution_and_large_for_two():
    rng = np.random.default_rng(0)
    one, same, shifted = (rng.normal(mean, 1, (300, 8)).astype(np.float32) for mean in (0, 0, 1))
    assert abs(kid(one, same)) < 0.05
    assert kid(one, shifted) > 1.0


def test_fid_of_shifted_and_stretched_gaussians_is_the_formula():
    # Diagonal covariances 1 and 4, means 0 and 3: 3^2 + (2 - 1)^2.
    left = np.array([[-1.0], [1.0]], np.float32) / np.sqrt(2, dtype=np.float32)
    assert fid(left, 2 * left + 3) == pytest.approx(10.0, rel=1e-5)


def test_fid_is_symmetric_and_zero_between_equals():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(1, 2, (80, 6)).astype(np.float32)
    assert fid(one, one) == pytest.approx(0, abs=1e-6)
    assert fid(one, other) == pytest.approx(fid(other, one), rel=1e-6)


def test_fid_survives_more_features_than_rows():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(5, 20)).astype(np.float32)
    assert fid(few, few) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("measure", [kid, fid])
def test_one_row_has_no_spread_and_is_refused(measure):
    with pytest.raises(ValueError, match="at least two rows"):
        measure(np.zeros((1, 4), np.float32), np.zeros((3, 4), np.float32))


def test_out_of_range_share_counts_values_and_what_is_no_number():
    images = np.array([0.0, 1.05, -1.2, np.nan], np.float32).reshape(1, 1, 2, 2)
    assert out_of_range_share(images) == 0.5
    assert out_of_range_share(images, limit=1.0) == 0.75
    assert out_of_range_share(np.zeros((1, 1, 2, 2), np.float32)) == 0.0


def test_no_images_have_no_share():
    with pytest.raises(ValueError, match="no images"):
        out_of_range_share(np.zeros((0, 1, 2, 2), np.float32))


def test_copies_of_training_images_are_nearer_to_them_than_held_out_ones():
    train, held_out = np.array([[0.0], [10.0]], np.float32), np.array([[1.0], [12.0]], np.float32)
    generated = np.array([[0.5], [9.0]], np.float32)  # nearest at 0.5 and 1.0, held out at 1.0 and 2.0: medians
    assert nearest_neighbour_ratio(generated, train, held_out) == pytest.approx(0.75 / 1.5)
    assert nearest_neighbour_ratio(train, train, held_out) == 0
    assert nearest_neighbour_ratio(held_out, train, held_out) == 1


def test_a_neighbour_ratio_needs_images_and_a_distance_to_compare_with():
    some = np.ones((2, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="at least one of each"):
        nearest_neighbour_ratio(some[:0], some, some)
    with pytest.raises(ValueError, match="are in the training set"):
        nearest_neighbour_ratio(some, some, some)


@given(st.integers(0, 100), st.sampled_from([(1, 1), (4, 9), (8, 8), (28, 28)]))
def test_equal_images_are_exactly_alike_whatever_they_show(seed, sides):
    images = np.random.default_rng(seed).uniform(-1, 1, (3, 2, *sides)).astype(np.float32)
    assert ssim(images, images).tolist() == [1.0, 1.0, 1.0]
    assert flicker(images, images) == 0.0


def test_flat_images_are_as_alike_as_their_brightness():
    # One window, no spread: (2ab + C) / (a^2 + b^2 + C) with a = 1/2, b = 1 and C = (0.01 * 2)^2.
    left, right = np.full((1, 1, 2, 2), 0.5, np.float32), np.ones((1, 1, 2, 2), np.float32)
    assert ssim(left, right)[0] == pytest.approx((1.0 + 0.0004) / (1.25 + 0.0004))


def test_an_image_and_its_negative_are_opposites():
    pattern = np.tile([[1.0, -1.0], [-1.0, 1.0]], (4, 4)).astype(np.float32)[None, None]
    assert ssim(pattern, -pattern, window=8)[0] == pytest.approx((0.0036 - 2) / (0.0036 + 2))


def test_images_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match="one shape"):
        ssim(np.zeros((1, 1, 4, 4), np.float32), np.zeros((2, 1, 4, 4), np.float32))


def test_a_collapsed_generator_has_no_diversity_and_neighbours_count_only_within_a_condition():
    black, white = np.full((1, 4, 4), -1.0, np.float32), np.ones((1, 4, 4), np.float32)
    assert diversity(np.stack([black, white, black, white]), [0, 1, 0, 1]) == 0.0
    assert diversity(np.stack([black, white, black, white]), [0, 0, 1, 1]) > 0.9


def test_diversity_needs_two_of_a_kind():
    with pytest.raises(ValueError, match="two images of some condition"):
        diversity(np.zeros((2, 1, 4, 4), np.float32), [0, 1])
