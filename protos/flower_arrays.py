"""Weights as Flower's ArrayRecord: all of them in one array, read without NumPy's own parser, which evaluates headers.

One array, because Flower moves every array as objects of their own, each fetched with requests of their own. Its key
says which weights it is made of, in order of their names, so that averages are only ever made of the same ones.
NumPy format 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import json
import re
from math import prod

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord

from learning_core.errors import Malformed
from learning_core.params import Array, Params, Shapes, is_finite, shapes_of
from protos.codec import MAX_BYTES

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,10}),\), \} *\n", re.DOTALL
)


def layout(shapes: Shapes) -> str:
    """The key of the array that holds weights of these names and shapes: JSON, by name."""
    return json.dumps({name: list(shape) for name, shape in sorted(shapes.items())}, separators=(",", ":"))


def encode_arrays(params: Params) -> ArrayRecord:
    """Weights (float32, finite) one after the other, in order of their names. Raises Malformed."""
    if not is_finite(params):
        raise Malformed("weights that are not finite must not leave this process")
    parts = [np.asarray(params[name], "<f4").ravel() for name in sorted(params)]
    joined = np.concatenate(parts) if parts else np.zeros(0, "<f4")
    return ArrayRecord({layout(shapes_of(params)): FlowerArray(joined)})


def decode_arrays(record: ArrayRecord, expected: Shapes, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Inverse of `encode_arrays`; names and shapes have to be exactly those `expected`. Raises Malformed."""
    if sum(len(array.data) for array in record.values()) > max_bytes:
        raise Malformed(f"the weights take more than the {max_bytes} bytes allowed")
    if list(record) != [layout(expected)]:
        raise Malformed("the weights do not fit the model: it has other names or shapes")
    joined = _values(record[layout(expected)])
    if joined.size != sum(prod(shape) for shape in expected.values()):
        raise Malformed("the weights do not fit the model: they are not as many as their shapes need")
    params, begin = {}, 0
    for name, shape in sorted(expected.items()):
        params[name] = joined[begin : begin + prod(shape)].reshape(shape).astype(np.float32)
        begin += prod(shape)
    if not is_finite(params):
        raise Malformed("the weights hold a number that is not finite")
    return params


def _values(array: FlowerArray) -> Array:
    """The numbers behind the header: [size]."""
    header = _HEADER.match(array.data, 0, 1024)
    if array.dtype != "float32" or array.stype != "numpy.ndarray" or header is None:
        raise Malformed("the weights are not one row of float32 in NumPy's format")
    size = int(header[2])
    body = memoryview(array.data)[header.end() :]
    if header.end() != 10 + int.from_bytes(header[1], "little") or (size,) != array.shape or len(body) != 4 * size:
        raise Malformed("the weights do not have the size their header states")
    return np.frombuffer(body, "<f4")
