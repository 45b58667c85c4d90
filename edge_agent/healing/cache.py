"""Healed outputs, found by embedding: what the student does badly or not at all now, it has done well at some time.

Several answers are drawn for a condition, out of the way of any request, and those are kept that lie where good answers
of that condition lie. A request then gets the kept ones nearest to what it asks for.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from edge_agent.healing.signals import cosines
from learning_core.params import Array

KEPT = 8  # of each condition
CERTAIN = 0.6


@dataclass(frozen=True, slots=True)
class HealedOutputs:
    """keys: [N, f] directions of length 1; outputs: [N, C, H, W]; centroids: [K, f], where conditions lie.

    `least`: cosine below which an output is not near enough to be given.
    """

    keys: Array
    outputs: Array
    centroids: Array
    least: float

    def near(self, condition: int, noise: Array) -> Array | None:
        """An output [C, H, W] for a condition, None when there is none near; equal noise [C, H, W] gives equal ones."""
        if not 0 <= condition < len(self.centroids):
            return None
        found = np.flatnonzero(self.keys @ self.centroids[condition] >= self.least)
        return None if not len(found) else np.asarray(self.outputs[found[crc32(noise.tobytes()) % len(found)]])

    def conditions(self) -> frozenset[int]:
        """For which conditions there is one."""
        near = self.keys @ self.centroids.T >= self.least
        return frozenset(int(each) for each in np.flatnonzero(near.any(axis=0)))


def healed(
    samples: Array, features: Array, logits: Array, conditions: NDArray[np.int64], centroids: Array, least: float
) -> HealedOutputs:
    """Keep the candidates of which a judge is surest, few of each condition, if they lie near the usual. May be none.

    samples: [N, C, H, W]; features: [N, f]; logits: [N, K]; conditions: [N].
    """
    near = cosines(features, conditions, centroids) >= least
    near &= np.isfinite(samples).all(axis=(1, 2, 3)) & np.isfinite(logits).all(axis=1)
    sure = np.where(near, _certainty(np.where(near[:, None], logits, 0), conditions), 0)
    best = [
        place
        for condition in np.unique(conditions)
        for place in sorted(np.flatnonzero(conditions == condition), key=lambda place: -sure[place])[:KEPT]
        if sure[place] >= CERTAIN
    ]
    rows = features[best]
    keys = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return HealedOutputs(keys.astype(np.float32), samples[best], centroids, least)


def _certainty(logits: Array, conditions: NDArray[np.int64]) -> NDArray[np.float64]:
    """A judge's probability of what was asked, [N]."""
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(odds[np.arange(len(odds)), conditions] / odds.sum(axis=1))
