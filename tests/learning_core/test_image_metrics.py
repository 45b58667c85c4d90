import numpy as np
import pytest

from learning_core.metrics.images import class_fidelity, fid, kid, out_of_range_share, per_condition_fidelity


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
