import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from learning_core.memory.novelty import Kept, Rule, Threshold, Why, judge

RULE = Rule()


def stream_through(embeddings, conditions, rule=RULE):
    kept, threshold, outcome = Kept.nothing(embeddings.shape[1]), Threshold(), []
    for embedding, condition in zip(embeddings, conditions, strict=True):
        judgement, threshold = judge(embedding, int(condition), kept, threshold, rule)
        if judgement.keep:
            kept = kept.plus(embedding, int(condition))
        outcome.append(judgement)
    return kept, threshold, outcome


def digits_with_near_duplicates(copies, jitter, seed):
    data, rng = load_digits(), np.random.default_rng(seed)
    chosen = rng.permutation(np.flatnonzero(data.target >= 5))[:150]
    pixels = np.repeat((data.images[chosen] / 8 - 1).reshape(-1, 64), copies + 1, axis=0)
    jittered = np.clip(pixels + rng.normal(0, jitter, pixels.shape), -1, 1).astype(np.float32)
    order = rng.permutation(len(jittered))
    mixing = rng.normal(size=(64, 64)).astype(np.float32) / 8
    originals = np.repeat(chosen, copies + 1)[order]
    return np.tanh(jittered @ mixing)[order], data.target[originals], originals


def test_the_first_sample_of_each_condition_is_kept():
    _, _, outcome = stream_through(np.eye(3, dtype=np.float32), [0, 1, 2])
    assert [(one.keep, one.why) for one in outcome] == [(True, Why.FIRST)] * 3


def test_the_same_sample_twice_is_a_duplicate_before_anything_is_known_of_the_stream():
    _, _, outcome = stream_through(np.ones((2, 3), np.float32), [0, 0])
    assert (outcome[1].keep, outcome[1].why) == (False, Why.DUPLICATE)


def test_novelty_is_the_nearest_distance_in_typical_distances():
    kept = Kept(np.array([[0.0], [2.0], [4.0], [10.0]], np.float32), np.zeros(4, np.int64))
    judgement, _ = judge(np.array([3.5], np.float32), 0, kept, Threshold(0.1), RULE)
    # distances 3.5, 1.5, .5, 6.5: the nearest is .5 and the median 2.5
    assert judgement.novelty == pytest.approx(0.2)
    assert judgement.why is Why.DUPLICATE


def test_a_rare_condition_is_kept_where_a_frequent_one_would_be_familiar():
    places = np.array([[0.0], [1.0], [2.0], [3.0], [9.0]], np.float32)
    kept = Kept(places, np.array([0, 0, 0, 0, 1]))
    familiar, _ = judge(np.array([1.5], np.float32), 0, kept, Threshold(2.0), RULE)
    rare, _ = judge(np.array([5.0], np.float32), 1, kept, Threshold(2.0), RULE)
    assert (familiar.keep, familiar.why) == (False, Why.FAMILIAR)
    assert (rare.keep, rare.why) == (True, Why.RARE)


def test_the_scale_of_the_embedding_does_not_matter():
    embeddings, conditions, _ = digits_with_near_duplicates(1, 0.05, seed=3)
    _, _, small = stream_through(embeddings, conditions)
    _, _, large = stream_through(embeddings * np.float32(1024), conditions)
    assert [one.keep for one in small] == [one.keep for one in large]


def test_keeping_raises_the_threshold_and_dropping_lowers_it():
    kept = Kept(np.arange(4, dtype=np.float32)[:, None], np.zeros(4, np.int64))
    _, raised = judge(np.array([9.0], np.float32), 0, kept, Threshold(0.5), RULE)
    _, lowered = judge(np.array([1.0], np.float32), 0, kept, Threshold(0.5), RULE)
    assert raised.value == pytest.approx(0.5 + 0.02 * 0.7)
    assert lowered.value == pytest.approx(0.5 - 0.02 * 0.3)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_long_stream_without_duplicates_is_kept_at_about_the_wanted_share(share):
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(1500, 6)).astype(np.float32)
    _, _, outcome = stream_through(embeddings, rng.integers(0, 3, 1500), Rule(keep_share=share))
    assert np.mean([one.keep for one in outcome[500:]]) == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_on_real_digits_half_is_dropped_no_digit_is_kept_twice_and_every_condition_stays(seed):
    embeddings, conditions, originals = digits_with_near_duplicates(copies=2, jitter=0.05, seed=seed)
    kept, _, outcome = stream_through(embeddings, conditions)
    keep = np.array([one.keep for one in outcome])
    assert np.mean(~keep) >= 0.5
    assert len(np.unique(originals[keep])) >= 0.97 * keep.sum()
    assert set(kept.conditions) == {5, 6, 7, 8, 9}
    assert np.bincount(kept.conditions)[5:].min() >= 8


@given(
    value=st.floats(0, 10),
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12),
    condition=st.integers(0, 2),
)
def test_the_threshold_stays_in_its_range_and_only_known_kinds_are_dropped(value, values, condition):
    kept = Kept(np.array(values, np.float32)[:, None], np.arange(len(values)) % 2)
    judgement, threshold = judge(np.array([0.5], np.float32), condition, kept, Threshold(value), RULE)
    assert RULE.duplicate_below <= threshold.value <= 4.0
    assert judgement.keep or condition in kept.conditions
