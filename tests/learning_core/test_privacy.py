import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from learning_core.federation.privacy import accumulate, clip, noisy_mean
from learning_core.params import norm, shapes_of, subtract
from learning_core.updates import ModelVersion, Update

SHAPES = {"a.lora_B": (3, 2), "label_rows": (4,)}
any_float32 = st.floats(width=32)
finite = st.floats(-(2.0**100), 2.0**100, width=32)


def update_of(a, b) -> Update:
    return Update({"a.lora_B": np.asarray(a, np.float32), "label_rows": np.asarray(b, np.float32)}, 5, ModelVersion(1))


def updates(numbers):
    return st.builds(
        update_of, hnp.arrays(np.float32, (3, 2), elements=numbers), hnp.arrays(np.float32, 4, elements=numbers)
    )


def test_one_norm_over_all_tensors_is_what_gets_clipped():
    longer = update_of(np.full((3, 2), 0.0), [3, 0, 0, 4])
    longer.delta["a.lora_B"][0, 0] = 12.0  # length 13

    clipped = clip(longer, 6.5)

    assert norm(clipped.update.delta) == pytest.approx(6.5, rel=1e-6)
    np.testing.assert_allclose(clipped.update.delta["label_rows"], [1.5, 0, 0, 2.0], rtol=1e-6)


def test_an_update_within_the_norm_keeps_every_bit():
    short = update_of(np.full((3, 2), 0.1), [0.1, -0.2, 0.3, 0])

    assert norm(subtract(clip(short, 1.0).update.delta, short.delta)) == 0.0


@given(updates(finite), st.floats(1e-6, 1e6))
def test_nothing_is_longer_than_the_clip_norm_after_rounding(update, clip_norm):
    assert norm(clip(update, clip_norm).update.delta) <= clip_norm


@given(updates(finite), st.floats(1e-6, 1e6))
def test_clipping_twice_changes_nothing(update, clip_norm):
    once = clip(update, clip_norm)
    twice = clip(once.update, clip_norm)

    assert all((twice.update.delta[name] == value).all() for name, value in once.update.delta.items())


@given(updates(any_float32).filter(lambda u: not all(np.isfinite(v).all() for v in u.delta.values())))
def test_an_update_that_is_not_finite_counts_as_no_change(update):
    clipped = clip(update, 1.0)

    assert norm(clipped.update.delta) == 0.0
    assert shapes_of(clipped.update.delta) == SHAPES


def test_a_zero_update_stays_zero():
    assert norm(clip(update_of(np.zeros((3, 2)), np.zeros(4)), 1.0).update.delta) == 0.0


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_norm_that_bounds_nothing_is_an_error(clip_norm):
    with pytest.raises(ValueError, match="clip_norm"):
        clip(update_of(np.zeros((3, 2)), np.zeros(4)), clip_norm)


def test_the_sum_holds_every_update_once_and_counts_them_alike():
    many = update_of(np.zeros((3, 2)), [1, 0, 0, 0])
    few = Update(many.delta, 10**9, ModelVersion(1))  # a device that claims a billion examples

    total = accumulate(accumulate(None, clip(many, 2.0)), clip(few, 2.0))

    assert total.count == 2
    np.testing.assert_array_equal(total.total["label_rows"], [2, 0, 0, 0])


def test_sums_of_different_clip_norms_do_not_mix():
    zero = update_of(np.zeros((3, 2)), np.zeros(4))

    with pytest.raises(ValueError, match="same clip_norm"):
        accumulate(accumulate(None, clip(zero, 1.0)), clip(zero, 2.0))


@given(updates(finite), st.lists(updates(finite), max_size=4))
def test_one_device_moves_the_sum_by_at_most_the_clip_norm(one, others):
    without = noisy_free(others)
    with_it = noisy_free([*others, one])

    moved = np.sqrt(sum(float(np.sum((with_it[name] - without[name]) ** 2)) for name in SHAPES))
    assert moved <= 1.0 + 1e-9


def noisy_free(many):
    total = None
    for each in many:
        total = accumulate(total, clip(each, 1.0))
    return {name: np.zeros(shape) if total is None else total.total[name] for name, shape in SHAPES.items()}


def test_without_noise_the_mean_is_over_the_expected_cohort_not_over_those_who_came():
    total = accumulate(None, clip(update_of(np.zeros((3, 2)), [1, 0, 0, 0]), 1.0))

    mean = noisy_mean(total, SHAPES, 1.0, 0.0, 4.0, np.random.default_rng(0))

    np.testing.assert_allclose(mean["label_rows"], [0.25, 0, 0, 0])


def test_the_noise_has_the_promised_deviation_and_no_bias():
    mean = noisy_mean(None, {"w": (200, 200)}, 0.5, 3.0, 10.0, np.random.default_rng(1))["w"]

    assert mean.dtype == np.float32
    assert mean.std() == pytest.approx(3.0 * 0.5 / 10.0, rel=0.02)
    assert abs(mean.mean()) < 4 * 0.15 / 200


def test_a_round_in_which_nobody_took_part_releases_noise():
    mean = noisy_mean(None, SHAPES, 1.0, 1.0, 4.0, np.random.default_rng(2))

    assert shapes_of(mean) == SHAPES
    assert norm(mean) > 0


def test_noise_meant_for_shorter_updates_is_refused():
    total = accumulate(None, clip(update_of(np.zeros((3, 2)), np.zeros(4)), 2.0))

    with pytest.raises(ValueError, match="shapes and clip_norm"):
        noisy_mean(total, SHAPES, 1.0, 1.0, 4.0, np.random.default_rng(0))


@pytest.mark.parametrize(("multiplier", "cohort"), [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, float("nan"))])
def test_noise_needs_a_multiplier_and_a_cohort(multiplier, cohort):
    with pytest.raises(ValueError, match="expected_cohort"):
        noisy_mean(None, SHAPES, 1.0, multiplier, cohort, np.random.default_rng(0))
