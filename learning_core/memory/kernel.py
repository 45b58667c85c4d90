"""How alike embeddings are: a radial kernel whose width is the median distance (Gretton et al. 2012, section 8)."""

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array


def rbf(embeddings: Array) -> NDArray[np.float64]:
    """exp(-distance^2 / (2 width^2)) between all pairs: [N, d] -> [N, N], diagonal 1; all 1 where all are equal."""
    if not len(embeddings):
        return np.zeros((0, 0))
    x = embeddings.astype(np.float64)
    x -= x.mean(axis=0)  # differences of large numbers lose digits
    lengths = np.sum(x * x, axis=1)
    squared = np.maximum(lengths[:, None] + lengths - 2 * (x @ x.T), 0)
    np.fill_diagonal(squared, 0)
    apart = squared[np.triu_indices(len(x), 1)]
    if not apart.any():
        return np.ones_like(squared)
    return np.asarray(np.exp(-squared / (2 * (np.median(apart) or apart.mean()))))
