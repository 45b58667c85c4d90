import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from learning_core.errors import Malformed
from learning_core.memory.latents import Precision, decode, encode, num_bytes

VALUES = arrays(
    np.float32, array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5), elements=st.floats(-6e4, 6e4, width=32)
)


def round_trip(values, precision):
    return decode(encode(values, precision), values.shape, precision)


def test_int8_keeps_a_scale_and_127_steps_a_row():
    row = np.array([[127.0, -63.4, 0.4], [0.0, 0.0, 0.0]], np.float32)
    assert encode(row, Precision.INT8) == np.array([1, 0], "<f4").tobytes() + bytes([127, 256 - 63, 0, 0, 0, 0])
    np.testing.assert_array_equal(round_trip(row, Precision.INT8), [[127, -63, 0], [0, 0, 0]])


@given(VALUES)
def test_float32_comes_back_as_it_was(values):
    np.testing.assert_array_equal(round_trip(values, Precision.FLOAT32), values)


@given(VALUES)
def test_float16_is_off_by_a_2048th_at_most(values):
    error = np.abs(round_trip(values, Precision.FLOAT16) - values)
    assert np.all(error <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25))


@given(VALUES)
def test_int8_is_off_by_half_a_step_of_its_row_at_most(values):
    largest = np.abs(values).max(axis=-1, keepdims=True)
    error = np.abs(round_trip(values, Precision.INT8) - values)
    assert np.all(error <= largest / 254 * (1 + 1e-5) + 1e-35)


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (0, 3), (2, 3, 4)])
def test_the_number_of_bytes_is_known_beforehand(precision, shape):
    values = np.ones(shape, np.float32)
    assert len(encode(values, precision)) == num_bytes(shape, precision)
    np.testing.assert_allclose(round_trip(values, precision), values, rtol=1e-6)


def test_what_a_precision_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"float16 ends at 65,504"):
        encode(np.array([7e4], np.float32), Precision.FLOAT16)
    with pytest.raises(ValueError, match="only finite"):
        encode(np.array([np.nan], np.float32), Precision.INT8)
    with pytest.raises(Malformed, match="3 bytes are not an array"):
        decode(b"abc", (1,), Precision.FLOAT32)
