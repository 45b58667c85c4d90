"""Vectors of features: flat, finite, of the right width, standardised if the settings say how."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning_core.errors import Malformed
from learning_core.params import Array


def vector(raw: NDArray[Any], width: int, mean: Sequence[float] = (), spread: Sequence[float] = ()) -> Array:
    """[width] float32, as (raw - mean) / spread where both are given. Raises Malformed."""
    if raw.size != width or max(raw.shape, default=0) != width:
        raise Malformed(f"features have the shape {raw.shape}, the release takes {width} in a row")
    if raw.dtype.kind not in "fiu":
        raise Malformed(f"features have to be numbers, not {raw.dtype}")
    if mean and not len(mean) == len(spread) == width:
        raise Malformed(f"source.mean and source.spread have {len(mean)} and {len(spread)} numbers, not {width}")
    values = raw.reshape(width).astype(np.float64)
    if mean:
        values = (values - np.asarray(mean)) / np.asarray(spread)
    with np.errstate(over="ignore"):  # what a float32 cannot hold becomes infinite, which is refused
        row = values.astype(np.float32)
    if not np.isfinite(row).all():
        raise Malformed("every feature has to be a finite float32")
    return row
