import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.curriculum import Curriculum, allowed, coarse, rate_factor, stage_at

THREE = Curriculum(stages=3, stage_steps=20, gentle=0.5, warm_up=4)
NONE = Curriculum(stages=1, stage_steps=1, gentle=1.0, warm_up=0)
LONG_AGO = 1000


def test_stages_follow_each_other_and_the_last_one_stays():
    assert [stage_at(step, THREE) for step in (0, 19, 20, 40, 59, 60, 999)] == [0, 0, 1, 2, 2, 2, 2]


def test_the_easiest_third_comes_first_then_two_thirds_then_all():
    difficulty = np.array([0.5, 0.1, 0.9, 0.3, 0.2], np.float32)
    assert [allowed(difficulty, stage, THREE).tolist() for stage in range(3)] == [[1, 4], [1, 4, 3, 0], [1, 4, 3, 0, 2]]


def test_the_rate_rises_from_gentle_to_full_within_a_stage():
    assert [rate_factor(step, LONG_AGO, THREE) for step in (0, 10, 20, 50, 60, 99)] == [0.5, 0.75, 0.5, 0.75, 1.0, 1.0]


def test_after_a_swap_the_rate_warms_up_in_five_equal_steps():
    assert [rate_factor(99, since, THREE) for since in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@given(st.integers(0, 500), st.integers(0, 50), st.integers(0, 30))
def test_the_rate_is_never_nothing_and_never_more_than_full_and_a_later_stage_takes_all_an_earlier_one_took(
    step, since, num
):
    assert 0 < rate_factor(step, since, THREE) <= 1
    difficulty = np.random.default_rng(num).random(num).astype(np.float32)
    sets = [set(allowed(difficulty, stage, THREE).tolist()) for stage in range(3)]
    assert sets[0] <= sets[1] <= sets[2] == set(range(num))


def test_no_curriculum_changes_nothing():
    images = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    assert stage_at(7, NONE) == 0
    assert allowed(np.zeros(4, np.float32), 0, NONE).tolist() == [0, 1, 2, 3]
    assert rate_factor(0, 0, NONE) == 1.0
    assert coarse(images, 0, NONE) is images


def test_what_is_no_curriculum_is_refused():
    with pytest.raises(ValueError, match="not a curriculum"):
        Curriculum(gentle=0.0)


def test_an_early_stage_shows_slow_waves_and_hides_fast_ones():
    """Of 8 columns: the wave of frequency 1/8 passes the first of three stages (up to 1/6), that of 3/8 does not."""
    x = 2 * np.pi * np.arange(8) / 8
    slow, fast = np.cos(x), np.cos(3 * x)
    image = np.broadcast_to(1 + slow + fast, (1, 1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(coarse(image, 0, THREE)[0, 0, 3], 1 + slow, atol=1e-6)
    np.testing.assert_array_equal(coarse(image, 2, THREE), image)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2))
def test_every_stage_keeps_the_mean_tone_and_the_shape(height, width, stage):
    images = np.random.default_rng(height * width).normal(size=(2, 1, height, width)).astype(np.float32)
    shown = coarse(images, stage, THREE)
    assert (shown.shape, shown.dtype) == (images.shape, np.float32)
    np.testing.assert_allclose(shown.mean((2, 3)), images.mean((2, 3)), atol=1e-5)
