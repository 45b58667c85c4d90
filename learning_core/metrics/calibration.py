"""Is a classifier as often right as it says it is? Logits [N, K] against labels [N]."""

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array

Labels = NDArray[np.int64]
COOLEST, HOTTEST = 1e-3, 1e3


def accuracy(logits: Array, labels: Labels) -> float:
    """Share 0..1 of the rows whose largest logit is the label's."""
    return float((_filled(logits, labels).argmax(axis=1) == labels).mean())


def expected_calibration_error(logits: Array, labels: Labels, temperature: float = 1.0, bins: int = 15) -> float:
    """Mean gap between stated confidence and hit rate over equal bins of confidence, 0..1. Guo et al. 2017, eq. 3."""
    chances = _chances(_filled(logits, labels), temperature)
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    which = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gaps = [abs(float((sure[which == at] - right[which == at]).sum())) for at in range(bins)]
    return sum(gaps) / len(labels)


def best_temperature(logits: Array, labels: Labels, steps: int = 60) -> float:
    """What to divide logits by so that they state honest chances, on held-out rows. Guo et al. 2017 (arXiv:1706.04599).

    The likelihood has one peak along 1 / temperature, which golden sections close in on.
    """
    rows = _filled(logits, labels)
    golden = (5**0.5 - 1) / 2
    low, high = -np.log(HOTTEST), -np.log(COOLEST)
    for _ in range(steps):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _surprise(rows, labels, left) < _surprise(rows, labels, right):
            high = right
        else:
            low = left
    return float(np.exp(-(low + high) / 2))


def _surprise(rows: NDArray[np.float64], labels: Labels, log_sharpness: float) -> float:
    sharp = rows * np.exp(log_sharpness)
    peak = sharp.max(axis=1, keepdims=True)
    total = peak[:, 0] + np.log(np.exp(sharp - peak).sum(axis=1))
    return float((total - sharp[np.arange(len(rows)), labels]).mean())


def _chances(rows: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    odds = np.exp((rows - rows.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _filled(logits: Array, labels: Labels) -> NDArray[np.float64]:
    if logits.ndim != 2 or len(logits) != len(labels) or len(labels) == 0:
        raise ValueError(f"need one row of logits for each label, not {logits.shape} for {len(labels)}")
    return np.maximum(logits.astype(np.float64), -1e9)  # a class that is never answered has a logit of minus infinity
