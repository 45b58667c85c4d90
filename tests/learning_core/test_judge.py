import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from learning_core.metrics.images import class_fidelity, kid
from learning_core.models.judge import Judge, jittered, train_judge
from learning_core.models.weights import weights_of
from learning_core.samples import Batch


def digits(rows: slice) -> Batch:
    order = np.random.default_rng(0).permutation(1797)[rows]
    found = load_digits()
    return Batch((found.images[order, None] / 8 - 1).astype(np.float32), found.target[order].astype(np.int64))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return train_judge(digits(slice(360, None)), 10, seed=0)


def judged(judge: Judge, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        logits, features = judge(torch.from_numpy(batch.features))
    return logits.numpy(), features.numpy()


def test_the_judge_knows_digits_it_has_not_seen(judge):
    held_out = digits(slice(360))
    assert class_fidelity(judged(judge, held_out)[0], held_out.conditions) >= 0.98


def test_features_of_the_training_images_are_z_scored(judge):
    features = judged(judge, digits(slice(360, None)))[1]
    assert features.shape == (1437, 64)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-2)


def test_features_tell_classes_apart_but_not_two_halves_of_one_set(judge):
    seen, held_out = digits(slice(360, None)), digits(slice(360))
    features, others = judged(judge, seen)[1], judged(judge, held_out)[1]
    assert abs(kid(features, others)) < 0.05
    assert kid(features[seen.conditions < 5], features[seen.conditions >= 5]) > 0.5


def test_equal_seeds_give_equal_judges_and_leave_global_randomness_alone():
    few = digits(slice(64))
    before = torch.get_rng_state()
    one, same, other = (weights_of(train_judge(few, 10, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["head.weight"], other["head.weight"])


def test_features_that_never_vary_are_not_blown_up():
    blank = Batch(np.zeros((8, 1, 8, 8), np.float32), np.zeros(8, np.int64))
    features = judged(train_judge(blank, 2, seed=0), blank)[1]
    assert np.abs(features).max() < 1e-2


def test_jitter_moves_an_image_by_at_most_one_pixel():
    image = torch.full((50, 1, 8, 8), -1.0)
    image[:, :, 3, 4] = 1.0
    moved = jittered(image, torch.Generator().manual_seed(0))
    places = {divmod(int(one.argmax()), 8) for one in moved}
    assert {row for row, _ in places} == {2, 3, 4}
    assert {column for _, column in places} == {3, 4, 5}
