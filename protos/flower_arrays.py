"""Weights as Flower's ArrayRecord: one NumPy file per tensor, read without NumPy's own parser, which evaluates headers.

NumPy format 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import re
from math import prod

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord

from learning_core.errors import Malformed
from learning_core.params import Array, Params, Shapes, is_finite
from protos.codec import MAX_BYTES, check_shapes

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '<f4', 'fortran_order': False, "
    rb"'shape': \((|[0-9]{1,10},|[0-9]{1,10}(?:, [0-9]{1,10}){1,7})\), \} *\n",
    re.DOTALL,
)


def encode_arrays(params: Params) -> ArrayRecord:
    """Weights (float32, finite), each under its name. Raises Malformed."""
    if not is_finite(params):
        raise Malformed("weights that are not finite must not leave this process")
    return ArrayRecord({name: FlowerArray(np.asarray(value, "<f4", order="C")) for name, value in params.items()})


def decode_arrays(record: ArrayRecord, expected: Shapes, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Inverse of `encode_arrays`; names and shapes have to be exactly those `expected`. Raises Malformed."""
    if sum(len(array.data) for array in record.values()) > max_bytes:
        raise Malformed(f"the weights take more than the {max_bytes} bytes allowed")
    check_shapes({name: array.shape for name, array in record.items()}, expected)
    params = {name: _values(name, array) for name, array in record.items()}
    if not is_finite(params):
        raise Malformed("the weights hold a number that is not finite")
    return params


def _values(name: str, array: FlowerArray) -> Array:
    header = _HEADER.match(array.data, 0, 1024)
    if array.dtype != "float32" or array.stype != "numpy.ndarray" or header is None:
        raise Malformed(f"weight {name[:80]!r} is not float32 in NumPy's format")
    shape = tuple(int(size) for size in re.findall(rb"[0-9]+", header[2]))
    body = memoryview(array.data)[header.end() :]
    if header.end() != 10 + int.from_bytes(header[1], "little") or shape != array.shape or len(body) != 4 * prod(shape):
        raise Malformed(f"weight {name[:80]!r} does not have the size its header states")
    return np.frombuffer(body, "<f4").reshape(shape).astype(np.float32)
