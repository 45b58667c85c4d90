import numpy as np

from cloud_server.drivers.digits import load_digits, parted
from learning_core.samples import split


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits as load

    ours, theirs = load_digits(), load()
    np.testing.assert_array_equal(ours.features[:, 0] * 8 + 8, theirs.images)
    np.testing.assert_array_equal(ours.conditions, theirs.target)
    assert ours.features.dtype == np.float32
    assert (ours.features.min(), ours.features.max()) == (-1.0, 1.0)


def test_nobody_is_examined_on_what_was_trained_on():
    digits = load_digits()
    train, held_out = parted(digits, 0, 0.2)
    kept, held = split(1797, 0, 0.2)
    assert len(held_out) == 359
    assert sorted([*kept, *held]) == list(range(1797))
    np.testing.assert_array_equal(held_out.features, digits.features[held])
    np.testing.assert_array_equal(train.conditions, digits.conditions[kept])
    assert set(held_out.conditions.tolist()) == set(range(10))
