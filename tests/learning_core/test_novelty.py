import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from learning_core.memory.keep_budget import Running, Threshold
from learning_core.memory.novelty import NOTHING, Kept, Rule, Why, judge

RULE = Rule()
LINE = np.array([[0.0], [2.0], [4.0], [10.0]], np.float32)


def at(*place):
    return np.array(place, np.float32)


def stream_through(embeddings, conditions, rule=RULE, surprises=None):
    kept, threshold, outcome = NOTHING, Threshold(), []
    for index, (embedding, condition) in enumerate(zip(embeddings, conditions, strict=True)):
        surprise = None if surprises is None else surprises[index]
        judgement, threshold = judge(embedding, int(condition), kept, threshold, rule, surprise)
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
    judgement, _ = judge(at(3.5), 0, Kept({0: LINE}), Threshold(), RULE)
    # distances 3.5, 1.5, .5, 6.5: the nearest is .5 and the median 2.5
    assert judgement.novelty == pytest.approx(0.2)
    assert judgement.why is Why.DUPLICATE


def test_a_rare_condition_is_kept_where_a_frequent_one_would_be_familiar():
    kept, strict = Kept({0: LINE, 1: at(9.0)[None]}), Threshold(ahead=100)
    familiar, _ = judge(at(7.0), 0, kept, strict, RULE)
    rare, _ = judge(at(5.0), 1, kept, strict, RULE)
    assert (familiar.keep, familiar.why) == (False, Why.FAMILIAR)
    assert (rare.keep, rare.why) == (True, Why.RARE)


def test_the_scale_of_the_embedding_does_not_matter():
    embeddings, conditions, _ = digits_with_near_duplicates(1, 0.05, seed=3)
    _, _, small = stream_through(embeddings, conditions)
    _, _, large = stream_through(embeddings * np.float32(1024), conditions)
    assert [one.keep for one in small] == [one.keep for one in large]


def test_surprise_keeps_what_distance_alone_would_drop_and_says_so():
    calm = Threshold(typical=Running(3, 1, 50), novelty=Running(1, 0.04, 50), surprise=Running(0, 1, 50))
    without, _ = judge(at(7.0), 0, Kept({0: LINE}), calm, RULE)
    surprised, _ = judge(at(7.0), 0, Kept({0: LINE}), calm, RULE, surprise=4.0)
    unsurprised, _ = judge(at(7.0), 0, Kept({0: LINE}), calm, RULE, surprise=-4.0)
    assert without.why is Why.FAMILIAR
    assert (surprised.keep, surprised.why) == (True, Why.SURPRISING)
    assert unsurprised.why is Why.FAMILIAR


def test_a_copy_is_dropped_however_surprising_it_is():
    judgement, _ = judge(at(2.0), 0, Kept({0: LINE}), Threshold(), RULE, surprise=1e6)
    assert judgement.why is Why.DUPLICATE


@pytest.mark.parametrize("broken", [(at(np.nan), None), (at(np.inf), None), (at(7.0), float("nan"))])
def test_what_is_no_number_is_dropped_and_leaves_the_threshold_alone(broken):
    embedding, surprise = broken
    judgement, threshold = judge(embedding, 0, Kept({0: LINE}), Threshold(ahead=3), RULE, surprise)
    assert (judgement.keep, judgement.why) == (False, Why.NOT_FINITE)
    assert threshold == Threshold(ahead=3)


def test_keeping_a_sample_leaves_what_was_kept_before_as_it_was():
    before = Kept.of(LINE, np.array([0, 0, 1, 1]))
    after = before.plus(at(5.0), 0)
    assert before.by_condition[0].ravel().tolist() == [0, 2]
    assert after.by_condition[0].ravel().tolist() == [0, 2, 5]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("surprised", [False, True])
def test_a_long_stream_without_duplicates_is_kept_at_the_wanted_share(share, surprised):
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(1500, 6)).astype(np.float32)
    surprises = rng.exponential(size=1500) / np.arange(1, 1501) ** 0.5 if surprised else None  # the model gets better
    rule = Rule(keep_share=share, duplicate_below=1e-6)
    _, _, outcome = stream_through(embeddings, rng.integers(0, 3, 1500), rule, surprises)
    assert np.mean([one.keep for one in outcome]) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_on_real_digits_half_is_dropped_no_digit_is_kept_twice_and_every_condition_stays(seed):
    embeddings, conditions, originals = digits_with_near_duplicates(copies=2, jitter=0.05, seed=seed)
    kept, _, outcome = stream_through(embeddings, conditions)
    keep = np.array([one.keep for one in outcome])
    assert np.mean(~keep) >= 0.5
    assert len(np.unique(originals[keep])) >= 0.97 * keep.sum()
    assert set(kept.by_condition) == {5, 6, 7, 8, 9}
    assert min(map(len, kept.by_condition.values())) >= 8


@given(
    ahead=st.floats(-80, 1e4),
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12),
    condition=st.integers(0, 2),
    surprise=st.none() | st.floats(-1e3, 1e3),
)
def test_the_first_of_a_kind_is_always_kept_and_every_sample_is_charged_to_the_budget(
    ahead, values, condition, surprise
):
    kept = Kept.of(np.array(values, np.float32)[:, None], np.arange(len(values)) % 2)
    judgement, threshold = judge(at(0.5), condition, kept, Threshold(ahead), RULE, surprise)
    assert judgement.keep or condition in kept.by_condition
    assert threshold.ahead == max(-80, ahead + judgement.keep - RULE.keep_share)
