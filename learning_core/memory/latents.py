"""Arrays as few bytes: float32 as it is, float16, or int8 with one scale a row.

What comes back differs from what went in by at most

    float32   0
    float16   2**-11 of the value (relative), or 2**-25 where that is less than 2**-14
    int8      1/254 of the largest magnitude in the row (half a step of the scale); a row is the last axis

and float16 holds magnitudes up to 65,504, int8 rows whose largest magnitude is 0 or at least 1e-35.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import prod

import numpy as np

from learning_core.errors import Malformed
from learning_core.params import Array

STEPS = 127


class Precision(StrEnum):
    """How samples or latents are kept."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def num_bytes(shape: Sequence[int], precision: Precision) -> int:
    """What one array of this shape takes."""
    match precision:
        case Precision.FLOAT32:
            return 4 * prod(shape)
        case Precision.FLOAT16:
            return 2 * prod(shape)
        case Precision.INT8:
            return prod(shape) + 4 * prod(shape[:-1])


def encode(values: Array, precision: Precision) -> bytes:
    """A finite array of any shape as `num_bytes` bytes. Raises ValueError for what the precision cannot hold."""
    if not np.isfinite(values).all():
        raise ValueError("only finite numbers are kept")
    match precision:
        case Precision.FLOAT32:
            return values.astype("<f4").tobytes()
        case Precision.FLOAT16:
            if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                raise ValueError("float16 ends at 65,504; keep larger values as int8 or float32")
            return values.astype("<f2").tobytes()
        case Precision.INT8:
            rows = np.atleast_1d(values).astype(np.float64)
            scales: Array = (np.abs(rows).max(axis=-1, initial=0) / STEPS).astype("<f4")
            steps = np.divide(rows, scales[..., None], out=np.zeros_like(rows), where=scales[..., None] > 0)
            return scales.tobytes() + np.clip(np.rint(steps), -STEPS, STEPS).astype(np.int8).tobytes()


def decode(data: bytes, shape: Sequence[int], precision: Precision) -> Array:
    """Inverse of `encode`, up to the error above. Raises Malformed for another number of bytes."""
    if len(data) != num_bytes(shape, precision):
        raise Malformed(f"{len(data)} bytes are not an array of shape {tuple(shape)} in {precision}")
    match precision:
        case Precision.FLOAT32 | Precision.FLOAT16:
            kind = "<f4" if precision is Precision.FLOAT32 else "<f2"
            return np.frombuffer(data, kind).astype(np.float32).reshape(shape)
        case Precision.INT8:
            rows = prod(shape[:-1])
            scales = np.frombuffer(data[: 4 * rows], "<f4").reshape(rows, 1)
            steps = np.frombuffer(data[4 * rows :], np.int8).reshape(rows, prod(shape[-1:]))
            return np.asarray(steps * scales, np.float32).reshape(shape)
