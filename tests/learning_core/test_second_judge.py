import numpy as np
import pytest
from sklearn.datasets import load_digits

from learning_core.metrics.images import class_fidelity
from learning_core.models.second_judge import gradients, train_second_judge
from learning_core.samples import Batch


def digits(rows: slice) -> Batch:
    order = np.random.default_rng(0).permutation(1797)[rows]
    found = load_digits()
    return Batch((found.images[order, None] / 8 - 1).astype(np.float32), found.target[order].astype(np.int64))


def test_the_second_judge_knows_digits_it_has_not_seen():
    held_out = digits(slice(360))
    judge = train_second_judge(digits(slice(360, None)), 10, seed=0)
    assert class_fidelity(judge.logits(held_out.features), held_out.conditions) >= 0.98


def test_an_edge_from_dark_to_bright_on_the_right_counts_for_direction_zero_of_its_cells():
    image = np.full((1, 1, 8, 8), -1.0, np.float32)
    image[..., 4:] = 1.0  # columns 3 and 4 see a step of 2: cells 1 and 2 of each of the four rows of cells
    found = gradients(image).reshape(4, 4, 8)
    np.testing.assert_allclose(found[:, 1:3, 0], 1 / np.sqrt(8))  # eight equal values, together of length 1
    assert np.count_nonzero(found) == 8


def test_a_gradient_between_two_directions_counts_for_both_in_parts():
    rows, columns = np.mgrid[:8, :8]
    slope = np.cos(np.pi / 8) * columns + np.sin(np.pi / 8) * rows  # half way between directions 0 and 1
    inside = gradients(slope[None, None].astype(np.float32)).reshape(4, 4, 8)[1:3, 1:3]
    np.testing.assert_allclose(inside[..., 0], inside[..., 1], rtol=1e-4)
    np.testing.assert_allclose(inside[..., 2:], 0, atol=1e-6)


def test_brightness_and_contrast_are_not_seen():
    image = digits(slice(5)).features
    np.testing.assert_allclose(gradients(0.5 * image + 0.25), gradients(image), atol=1e-6)


def test_a_blank_image_has_no_edges():
    assert not gradients(np.ones((2, 1, 8, 8), np.float32)).any()


def test_equal_seeds_give_equal_judges():
    few = digits(slice(40))
    one, same, other = (train_second_judge(few, 10, seed).logits(few.features) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_there_has_to_be_something_to_learn_from():
    with pytest.raises(ValueError, match="nothing to learn from"):
        train_second_judge(digits(slice(0)), 10, seed=0)
