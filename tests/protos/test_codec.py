import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from learning_core.errors import Malformed
from learning_core.params import digest, shapes_of
from protos.codec import check_shapes, decode_params, decode_tensors, encode_params, encode_tensors

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="._"), min_size=1, max_size=20)
WEIGHTS = st.dictionaries(
    NAMES,
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    max_size=4,
)


@given(WEIGHTS)
def test_weights_come_back_as_they_went(weights):
    back = decode_params(encode_params(weights), shapes_of(weights))
    assert digest(back) == digest(weights)


@given(WEIGHTS)
def test_equal_weights_give_equal_bytes_in_whatever_order_they_are_named(weights):
    assert encode_params(dict(reversed(weights.items()))) == encode_params(weights)


@given(st.binary(max_size=200))
def test_noise_is_refused_with_our_error_and_nothing_else(data):
    with pytest.raises(Malformed):
        decode_params(data)


@given(WEIGHTS, st.data())
def test_a_cut_message_is_refused(weights, data):
    whole = encode_params(weights)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Malformed):
        decode_params(whole[:cut])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_both_ways(bad):
    weights = {"w": np.array([1.0, bad], np.float32)}
    with pytest.raises(Malformed, match="not finite"):
        decode_params(encode_tensors(weights))
    with pytest.raises(ValueError, match="not finite"):
        encode_params(weights)


def test_too_many_bytes_are_refused_before_they_are_read():
    with pytest.raises(Malformed, match="more than the 10 allowed"):
        decode_params(b"x" * 11, max_bytes=10)


def test_a_header_that_promises_more_than_there_is_is_refused():
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    with pytest.raises(Malformed):
        decode_params(struct.pack("<Q", len(header)) + header)


def test_other_number_types_are_refused():
    header = json.dumps({"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    with pytest.raises(Malformed, match="float64"):
        decode_tensors(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(Malformed, match="not float32"):
        decode_params(encode_tensors({"w": np.arange(3)}))


@pytest.mark.parametrize(
    ("got", "words"),
    [({"a": (2,)}, "missing"), ({"a": (2,), "b": (3,), "c": (1,)}, "unknown"), ({"a": (2,), "b": (4,)}, "shape")],
)
def test_weights_for_another_model_are_refused_with_the_first_difference(got, words):
    with pytest.raises(Malformed, match=words):
        check_shapes(got, {"a": (2,), "b": (3,)})
