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
