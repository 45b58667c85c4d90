"""Weights and tensors as bytes: safetensors, checked before a number of it is believed.

The format is a length, a JSON header and the raw little-endian values (https://github.com/huggingface/safetensors);
nothing in it can be executed. What is refused raises `Malformed` and leaves no trace.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from learning_core.errors import Malformed
from learning_core.params import Array, Params, Shapes, is_finite, shapes_of

MAX_BYTES = 64 << 20
_DTYPES = (np.dtype("<f4"), np.dtype("<i8"), np.dtype("u1"))


def encode_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Tensors of float32, int64 or uint8."""
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise ValueError(f"{name!r} is {value.dtype}; only float32, int64 and uint8 travel")
    return bytes(save({name: np.asarray(value, order="C") for name, value in tensors.items()}))


def decode_tensors(data: bytes, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """Inverse of `encode_tensors`. Raises Malformed."""
    if len(data) > max_bytes:
        raise Malformed(f"the tensors take {len(data)} bytes, more than the {max_bytes} allowed")
    try:
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise Malformed(f"these bytes are not safetensors: {str(error)[:120]}") from error
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise Malformed(f"tensor {name[:80]!r} is {value.dtype}; only float32, int64 and uint8 are accepted")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise Malformed(f"tensor {name[:80]!r} holds a number that is not finite")
    return tensors


def encode_params(params: Params) -> bytes:
    """Weights (float32, finite) as bytes; equal weights give equal bytes."""
    if not is_finite(params):
        raise ValueError("weights that are not finite must not leave this process")
    return encode_tensors({name: np.asarray(params[name], np.float32) for name in sorted(params)})


def decode_params(data: bytes, expected: Shapes | None = None, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Inverse of `encode_params`; with `expected`, names and shapes have to be exactly those. Raises Malformed."""
    tensors = decode_tensors(data, max_bytes)
    for name, value in tensors.items():
        if value.dtype != np.float32:
            raise Malformed(f"weight {name[:80]!r} is {value.dtype}, not float32")
    if expected is not None:
        check_shapes(shapes_of(tensors), expected)
    return tensors


def check_shapes(got: Shapes, expected: Shapes) -> None:
    """Refuse weights that do not fit the model they are for. Raises Malformed naming the first difference."""
    if odd := sorted(got.keys() ^ expected.keys()):
        side = "missing" if odd[0] in expected else "unknown"
        raise Malformed(f"the weights do not fit the model: {odd[0][:80]!r} is {side} ({len(odd)} names differ)")
    for name, shape in got.items():
        if tuple(shape) != tuple(expected[name]):
            raise Malformed(f"weight {name[:80]!r} has shape {tuple(shape)}, the model needs {tuple(expected[name])}")
