import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core import params
from learning_core.updates import ModelVersion

LEFT = {"a": np.array([3.0], np.float32), "b": np.array([[4.0]], np.float32)}


def test_length_is_taken_over_all_tensors_together():
    assert params.norm(LEFT) == 5.0
    assert params.norm({}) == 0.0


def test_subtracting_undoes_adding():
    doubled = params.add(LEFT, LEFT)
    assert params.digest(params.subtract(doubled, LEFT)) == params.digest(LEFT)
    assert params.digest(params.scale(LEFT, 2.0)) == params.digest(doubled)


def test_weights_of_different_models_cannot_be_added():
    with pytest.raises(ValueError, match="differ in names"):
        params.add(LEFT, {"a": LEFT["a"]})


def test_a_digest_tells_shapes_and_names_apart():
    values = np.zeros(4, np.float32)
    digests = {
        params.digest(weights)
        for weights in (
            {"a": values},
            {"b": values},
            {"a": values.reshape(2, 2)},
            {"a": np.float32(0)},
            {"a": values[:1]},
        )
    }
    assert len(digests) == 5


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_a_version_reads_back_as_it_was_written(release, step):
    assert ModelVersion.parse(str(ModelVersion(release, step))) == ModelVersion(release, step)


@pytest.mark.parametrize("text", ["", "1", "1.", "a.b", "1.2.3", "-1.2", "1.2 ", "१.२", "1" * 20 + ".1"])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(ValueError, match="reads like"):
        ModelVersion.parse(text)
