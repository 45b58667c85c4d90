"""How good generated samples are: do they show what was asked, and do they spread as real ones do."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from learning_core.params import Array

Labels = NDArray[np.int64]

LUMINANCE, CONTRAST = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of SSIM, for values that span 2


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


def nearest_neighbour_ratio(generated: Array, train: Array, held_out: Array) -> float:
    """Median distance to the nearest training image: of generated ones, over that of held-out ones. Each [N, ...].

    Around 1 for a model that has learned the distribution, towards 0 for one that repeats what it was shown; the
    held-out images say how near an image of this kind comes by itself. Cf. Meehan et al. 2020 (arXiv:2004.05675).
    """
    if min(len(generated), len(train), len(held_out)) == 0:
        raise ValueError("need generated, training and held-out images, at least one of each")
    own, others = _nearest(generated, train), _nearest(held_out, train)
    if others == 0:
        raise ValueError("the held-out images are in the training set, so they say nothing about it")
    return own / others


def leave_one_out_ratio(generated: Array, train: Array) -> float | None:
    """`nearest_neighbour_ratio` without held-out images: over the distance of a training image to the nearest other.

    None when most training images have a copy among the others, which says nothing.
    """
    if len(generated) == 0 or len(train) < 2:
        raise ValueError("need a generated image and two training images, at least")
    squares = _squared_distances(train, train)
    rounding = 1e-6 * float(np.sqrt(squares.max()))
    np.fill_diagonal(squares, np.inf)
    among = float(np.median(np.sqrt(squares.min(axis=1))))
    return _nearest(generated, train) / among if among > rounding else None


def ssim(left: Array, right: Array, window: int = 7) -> NDArray[np.float64]:
    """Structural similarity of pairs of images in -1..1, both [N, C, H, W]: [N] in -1..1, exactly 1 for equal images.

    Mean over all square windows; variance and covariance both divide by the number of pixels: with one of them
    unbiased, equal images would differ. Wang et al. 2004, eq. 13 (doi:10.1109/TIP.2003.819861).
    """
    if left.shape != right.shape or left.ndim != 4:
        raise ValueError(f"need two sets of images of one shape [N, C, H, W], not {left.shape} and {right.shape}")
    side = min(window, *left.shape[2:])
    a, b = left.astype(np.float64), right.astype(np.float64)
    mean_a, mean_b = _windowed(a, side), _windowed(b, side)
    spread_a = _windowed(a * a, side) - mean_a * mean_a
    spread_b = _windowed(b * b, side) - mean_b * mean_b
    together = _windowed(a * b, side) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + LUMINANCE) * (2 * together + CONTRAST)
    whole = (mean_a * mean_a + mean_b * mean_b + LUMINANCE) * (spread_a + spread_b + CONTRAST)
    return np.asarray((alike / whole).mean(axis=(1, 2, 3)))


def flicker(once: Array, again: Array) -> float:
    """How much the same requests changed from one rendering to the next, 0 for not at all: mean of 1 - SSIM."""
    return float(1 - ssim(once, again).mean())


def diversity(images: Array, conditions: Labels | Sequence[int]) -> float:
    """How different images of one condition are: mean of 1 - SSIM over each image and the next of its condition.

    0 when every condition has collapsed to one image. images: [N, C, H, W], two or more of some condition.
    """
    asked = np.asarray(conditions, np.int64)
    order = np.argsort(asked, kind="stable")
    same = asked[order][1:] == asked[order][:-1]
    if not same.any():
        raise ValueError("need two images of some condition to say how different they are")
    return flicker(images[order[:-1][same]], images[order[1:][same]])


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


def _nearest(rows: Array, others: Array) -> float:
    """Median over rows of the Euclidean distance to the nearest of the others."""
    return float(np.median(np.sqrt(_squared_distances(rows, others).min(axis=1))))


def _squared_distances(rows: Array, others: Array) -> NDArray[np.float64]:
    """[N, ...] and [M, ...] -> [N, M]."""
    a, b = rows.reshape(len(rows), -1).astype(np.float64), others.reshape(len(others), -1).astype(np.float64)
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.clip(squares, 0, None))


def _windowed(x: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Means over all square windows: [N, C, H, W] -> [N, C, H - side + 1, W - side + 1]."""
    for axis in (2, 3):
        x = sliding_window_view(x, side, axis=axis).mean(axis=-1)
    return x
