"""How good generated samples are: do they show what was asked, and do they spread as real ones do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array

Labels = NDArray[np.int64]


def per_condition_fidelity(logits: Array, conditions: Labels | Sequence[int]) -> dict[int, float]:
    """Share 0..1 of the samples asked for as c that a judge takes for c, for each c present. logits: [N, K]."""
    asked = np.asarray(conditions, np.int64)
    right = _right(logits, asked)
    return {int(condition): float(right[asked == condition].mean()) for condition in np.unique(asked)}


def class_fidelity(logits: Array, conditions: Labels | Sequence[int]) -> float:
    """Share 0..1 of all samples that a judge takes for what was asked. logits: [N, K]; conditions: [N]."""
    return float(_right(logits, np.asarray(conditions, np.int64)).mean())


def kid(left: Array, right: Array) -> float:
    """Squared kernel distance between two sets of features, [N, d] and [M, d], each with at least 2 rows.

    Unbiased, so it is around 0 (also below) for two samples of one distribution. Polynomial kernel of degree 3;
    Binkowski et al. 2018, eq. 4 (arXiv:1801.01401).
    """
    a, b = _features(left), _features(right)
    within_a, within_b = _kernel(a, a), _kernel(b, b)
    apart = float(_kernel(a, b).mean())
    return _off_diagonal_mean(within_a) + _off_diagonal_mean(within_b) - 2 * apart


def fid(left: Array, right: Array) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of features, [N, d] and [M, d].

    Biased upwards for few rows: compare only values from equally many. Heusel et al. 2017 (arXiv:1706.08500).
    """
    a, b = _features(left), _features(right)
    apart = a.mean(axis=0) - b.mean(axis=0)
    spread_a, spread_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root_a = _root(np.atleast_2d(spread_a))
    cross = np.linalg.eigvalsh(root_a @ np.atleast_2d(spread_b) @ root_a)  # the same eigenvalues as spread_a @ spread_b
    overlap = np.sqrt(np.clip(cross, 0, None)).sum()
    return float(apart @ apart + np.trace(np.atleast_2d(spread_a)) + np.trace(np.atleast_2d(spread_b)) - 2 * overlap)


def out_of_range_share(images: Array, limit: float = 1.1) -> float:
    """Share 0..1 of the values that lie outside -limit..limit; a value that is not a number counts as outside."""
    if images.size == 0:
        raise ValueError("there are no images to look at")
    return float(1 - (np.abs(images) <= limit).mean())


def _right(logits: Array, asked: Labels) -> NDArray[np.bool_]:
    if logits.ndim != 2 or len(logits) != len(asked) or len(asked) == 0:
        raise ValueError(f"need one row of logits for each condition, not {logits.shape} for {len(asked)}")
    chosen = np.where(np.isfinite(logits).all(axis=1), np.nan_to_num(logits).argmax(axis=1), -1)
    return np.asarray(chosen == asked, np.bool_)


def _features(rows: Array) -> NDArray[np.float64]:
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"need at least two rows of features, not an array of shape {rows.shape}")
    return rows.astype(np.float64)


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _off_diagonal_mean(square: NDArray[np.float64]) -> float:
    rows = len(square)
    return float((square.sum() - np.trace(square)) / (rows * (rows - 1)))


def _root(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
