import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.healing.cache import healed
from edge_agent.healing.signals import (
    Look,
    Reference,
    Signal,
    apart,
    apart_each,
    centroids_of,
    cosines,
    lost_diversity,
    observe,
    variation,
)

RNG = np.random.default_rng(0)
CENTROIDS = np.eye(3, 4, dtype=np.float32)


def images(rows=4, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 1, 8, 8)).astype(np.float32)


def features(conditions, seed=2):
    """Close to their condition's centroid, [N, 4]."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (len(conditions), 4))
    return (CENTROIDS[conditions] + noise).astype(np.float32)


def look(**changes):
    conditions = np.arange(24) % 3
    usual = {
        "samples": images(24),
        "features": features(conditions),
        "conditions": conditions,
        "fresh": 10,
        "slow": 0.0,
        "files_sound": True,
        "probe": 0.0,
        "live_probe": 0.0,
        "flicker": 0.0,
    }
    return Look(**{**usual, **changes})


def reference():
    conditions = np.arange(30) % 3
    beside = features(conditions, 5) - CENTROIDS[conditions]
    return Reference(CENTROIDS, beside, variation(images(24)), 0.98)


def test_equal_images_differ_by_exactly_nothing_even_if_they_are_nonsense():
    same = images()
    assert apart(same, same.copy()) == 0.0
    nonsense = np.full_like(same, np.nan)
    assert apart(nonsense, nonsense.copy()) == 0.0
    assert apart(nonsense, same) == 1.0


def test_one_changed_pixel_is_seen():
    left = images()
    right = left.copy()
    right[2, 0, 3, 3] += 0.1
    found = apart_each(left, right)
    assert found[2] > 0
    assert not found[[0, 1, 3]].any()


def test_cosines_are_of_what_was_asked_and_worst_for_nonsense():
    found = cosines(
        np.array([[2, 0, 0, 0], [0, 1, 0, 0], [np.nan, 0, 0, 0]], np.float32), np.array([0, 0, 1]), CENTROIDS
    )
    np.testing.assert_allclose(found, [1.0, 0.0, -1.0])


def test_a_centroid_is_the_mean_direction_of_what_a_judge_accepts():
    logits = np.array([[5, 0, 0], [0, 5, 0], [5, 0, 0]], np.float32)
    rows = np.array([[3, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9]], np.float32)
    found = centroids_of(logits, rows, np.array([0, 0, 1]), 3)
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_a_sound_look_gives_every_signal_and_none_is_large():
    values = observe(look(), reference(), RNG)
    assert set(values) == set(Signal)
    assert values[Signal.ANCHOR] < 0.05
    assert max(values[each] for each in (Signal.FILES, Signal.PROBE, Signal.FLICKER, Signal.OUT_OF_RANGE)) == 0
    assert values[Signal.VARIATION] == pytest.approx(0, abs=0.2)


def test_answers_to_other_conditions_raise_the_anchor_and_copies_lose_diversity():
    usual = observe(look(), reference(), RNG)
    wrong = observe(look(features=features((np.arange(24) + 1) % 3)), reference(), RNG)
    assert wrong[Signal.ANCHOR] > usual[Signal.ANCHOR] + 0.5
    copies = observe(
        look(features=np.repeat(features([0]), 24, axis=0), conditions=np.zeros(24, int)), reference(), RNG
    )
    assert copies[Signal.DIVERSITY] > 0.5


def test_who_asks_for_what_is_no_drift():
    only_one = observe(look(features=features(np.zeros(24, int), 9), conditions=np.zeros(24, int)), reference(), RNG)
    elsewhere = observe(look(features=features(np.arange(24) % 3) + np.float32([0, 0, 0, 1])), reference(), RNG)
    assert only_one[Signal.DRIFT] < elsewhere[Signal.DRIFT] / 3


def test_without_answers_only_the_probes_speak():
    nothing = look(
        samples=images(0), features=np.empty((0, 4), np.float32), conditions=np.empty(0, int), fresh=0, slow=None
    )
    assert set(observe(nothing, reference(), RNG)) == {Signal.FILES, Signal.PROBE, Signal.LIVE_PROBE, Signal.FLICKER}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_nonsense_is_seen_and_breaks_nothing(value):
    bad = look(samples=np.full((24, 1, 8, 8), value, np.float32), features=np.full((24, 4), value, np.float32))
    values = observe(bad, reference(), RNG)
    assert values[Signal.ANCHOR] == 2.0
    assert values[Signal.OUT_OF_RANGE] == 1.0
    assert all(np.isfinite(each) for each in values.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 24), st.integers(0, 1 << 30))
def test_every_signal_is_a_number_from_nothing_up_whatever_is_seen(fresh, seed):
    rng = np.random.default_rng(seed)
    scale = np.float32(10.0 ** rng.integers(-6, 7))
    seen = look(
        samples=images(24, seed) * scale, features=rng.normal(0, scale, (24, 4)).astype(np.float32), fresh=fresh
    )
    values = observe(seen, reference(), rng)
    assert all(np.isfinite(value) and value >= 0 for value in values.values())


def test_diversity_of_the_same_answers_is_not_lost():
    rows = features(np.arange(12) % 3)
    assert lost_diversity(rows, rows) == pytest.approx(0, abs=1e-6)


def test_healed_outputs_are_what_the_judge_is_sure_of_and_equal_noise_gets_equal_ones():
    samples, conditions = images(4), np.array([0, 0, 1, 2])
    logits = np.array([[9, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 0.1]], np.float32)
    outputs = healed(samples, CENTROIDS[conditions], logits, conditions, CENTROIDS, 0.9)
    assert outputs.conditions() == {0, 1}
    noise = images(1, 7)[0]
    assert np.array_equal(outputs.near(0, noise), samples[0])
    assert np.array_equal(outputs.near(1, noise), outputs.near(1, noise.copy()))
    assert outputs.near(2, noise) is None
    assert outputs.near(7, noise) is None


def test_nothing_good_heals_nothing():
    outputs = healed(images(2), CENTROIDS[[1, 1]], np.eye(2, 3, dtype=np.float32), np.array([0, 0]), CENTROIDS, 0.9)
    assert outputs.conditions() == frozenset()
