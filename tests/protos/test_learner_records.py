import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learning_core.errors import Malformed
from learning_core.samples import Batch
from protos.codec import encode_tensors
from protos.learner_records import (
    Checkpoint,
    Failed,
    FitCommand,
    Progress,
    decode_checkpoint,
    decode_line,
    decode_samples,
    encode_checkpoint,
    encode_line,
    encode_samples,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(0, 1 << 30)
commands = st.builds(
    FitCommand,
    folder=st.text(max_size=20),
    release=st.text(max_size=20),
    slice_steps=whole,
    steps=whole,
    batch=whole,
    learning_rate=finite,
    seed=whole,
)
messages = commands | st.builds(Progress, step=whole, loss=finite, rss_mb=finite) | st.builds(Failed, st.text())
weights = st.dictionaries(
    st.text("abc._", min_size=1, max_size=8),
    arrays(np.float32, (2, 3), elements=st.floats(-9, 9, width=32)),
    max_size=3,
)


@given(messages)
def test_a_message_survives_its_line(message):
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert decode_line(line) == message


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(Malformed):
        decode_line(data)


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "Progress", "step": 1, "loss": NaN, "rss_mb": 1.0}',
        b'{"kind": "Progress", "step": 1.5, "loss": 1.0, "rss_mb": 1.0}',
        b'{"kind": "Progress", "step": true, "loss": 1.0, "rss_mb": 1.0}',
        b'{"kind": "Progress", "step": 1, "loss": 1.0}',
        b'{"kind": "Progress", "step": 1, "loss": 1.0, "rss_mb": 1.0, "more": 1}',
        b'{"kind": "Checkpoint", "step": 1}',
        b'["Progress"]',
        b"x" * 70_000,
    ],
)
def test_a_message_with_something_odd_is_refused(line):
    with pytest.raises(Malformed, match="no message"):
        decode_line(line)


@given(whole, weights, weights)
def test_a_checkpoint_survives_its_file(step, adapter, moments):
    found = decode_checkpoint(encode_checkpoint(Checkpoint(step, adapter, moments)))
    assert found.step == step
    for before, after in ((adapter, found.adapter), (moments, found.moments)):
        assert before.keys() == after.keys()
        assert all((before[name] == after[name]).all() for name in before)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"step": np.array([1, 2])},
        {"step": np.array([-1])},
        {"step": np.array([1.0], np.float32)},
        {"step": np.array([1]), "weights/a": np.zeros(1, np.float32)},
        {"step": np.array([1]), "adapter/a": np.zeros(1, np.int64)},
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tensors):
    with pytest.raises(Malformed):
        decode_checkpoint(encode_tensors(tensors))


def test_samples_survive_their_file():
    batch = Batch(np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2), np.array([3, 4]))
    found = decode_samples(encode_samples(batch))
    assert (found.features == batch.features).all()
    assert (found.conditions == batch.conditions).all()


@pytest.mark.parametrize(
    "tensors",
    [
        {"features": np.zeros((2, 3), np.float32)},
        {"features": np.zeros((2, 3), np.float32), "conditions": np.zeros(3, np.int64)},
        {"features": np.zeros((2, 3), np.float32), "conditions": np.zeros(2, np.float32)},
        {"features": np.zeros((2, 3), np.int64), "conditions": np.zeros(2, np.int64)},
        {"features": np.zeros(2, np.float32), "conditions": np.zeros(2, np.int64)},
    ],
)
def test_a_file_that_holds_no_samples_is_refused(tensors):
    with pytest.raises(Malformed):
        decode_samples(encode_tensors(tensors))
