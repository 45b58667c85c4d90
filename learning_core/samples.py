"""What a device has seen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation. `features`: any shape, float32; `condition`: its label or prompt index; epoch seconds."""

    features: Array
    condition: int
    taken_at_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Several observations. features: [B, ...] float32; conditions: [B] int64."""

    features: Array
    conditions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.conditions)


def split(num: int, seed: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of `num` samples, shuffled and parted: (the rest, a hold-out of `share`). The same for everyone."""
    if num < 0 or not 0 <= share <= 1:
        raise ValueError(f"cannot hold out a share of {share} of {num} samples")
    order = np.random.default_rng(seed).permutation(num).astype(np.int64)
    held_out = round(num * share)
    return order[held_out:], order[:held_out]
