"""A judge that shares nothing with the first: edge directions, random features and a ridge, solved in closed form.

For reporting only. What gates and tunes a generator sooner or later fits the judge it is gated with; a second one,
built differently and never asked before the end, shows whether the image or only the verdict became better.
Histograms of gradients: Dalal and Triggs 2005; random features of an RBF kernel: Rahimi and Recht 2007.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array
from learning_core.samples import Batch

DIRECTIONS = 8
GRID = 4  # cells along a side
FEATURES = 1024
RIDGE = 1e-2
LEAST_NORM = 1e-6

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SecondJudge:
    """projection: [F, 1024] and phase: [1024] of the random features; weights: [1025, K], the last row is the bias."""

    projection: Matrix
    phase: Matrix
    weights: Matrix

    def logits(self, images: Array) -> Array:
        """images: [N, C, H, W] in -1..1 -> one score per condition, [N, K], near 1 for the one that is seen."""
        return (_lifted(gradients(images), self.projection, self.phase) @ self.weights).astype(np.float32)


def train_second_judge(samples: Batch, num_conditions: int, seed: int) -> SecondJudge:
    """Ridge regression on one-hot conditions. Raises ValueError when there is nothing to learn from."""
    if len(samples) == 0:
        raise ValueError("there is nothing to learn from: the batch of samples is empty")
    rng = np.random.default_rng(seed)
    seen = gradients(samples.features)
    width = _typical_distance(seen, rng)
    projection = rng.normal(0, 1 / width, (seen.shape[1], FEATURES))
    phase = rng.uniform(0, 2 * np.pi, FEATURES)
    lifted = _lifted(seen, projection, phase)
    gram = lifted.T @ lifted + RIDGE * np.eye(FEATURES + 1)
    wanted = np.eye(num_conditions)[samples.conditions]
    return SecondJudge(projection, phase, np.asarray(np.linalg.solve(gram, lifted.T @ wanted), np.float64))


def gradients(images: Array) -> Matrix:
    """Where which edges are: [N, C, H, W] -> [N, C * 16 * 8], lengths of gradients by cell and direction, of length 1.

    A gradient between two directions counts for both, in parts; one between cells for the cell it is in.
    """
    x = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    down, right = x[:, :, 2:, 1:-1] - x[:, :, :-2, 1:-1], x[:, :, 1:-1, 2:] - x[:, :, 1:-1, :-2]
    length = np.hypot(down, right)
    turn = (np.arctan2(down, right) / (2 * np.pi) * DIRECTIONS) % DIRECTIONS
    lower = np.floor(turn).astype(np.int64) % DIRECTIONS
    part = turn - np.floor(turn)
    rows, channels, height, width = images.shape
    cell = (np.arange(height) * GRID // height)[:, None] * GRID + np.arange(width) * GRID // width
    histogram = np.zeros((rows * channels, GRID * GRID * DIRECTIONS))
    row = np.arange(rows * channels)[:, None]
    for direction, share in ((lower, 1 - part), ((lower + 1) % DIRECTIONS, part)):
        place = (cell * DIRECTIONS + direction).reshape(rows * channels, -1)
        np.add.at(histogram, (row, place), (length * share).reshape(rows * channels, -1))
    flat = np.sqrt(histogram.reshape(rows, -1))
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), LEAST_NORM))


def _lifted(rows: Matrix, projection: Matrix, phase: Matrix) -> Matrix:
    """Random features of an RBF kernel and a constant, [N, 1025]."""
    waves = np.sqrt(2 / FEATURES) * np.cos(rows @ projection + phase)
    return np.concatenate((waves, np.ones((len(rows), 1))), axis=1)


def _typical_distance(rows: Matrix, rng: np.random.Generator) -> float:
    """Median distance of random pairs: the usual width of the kernel."""
    pairs = rng.integers(len(rows), size=(2, 500))
    apart = np.linalg.norm(rows[pairs[0]] - rows[pairs[1]], axis=1)
    return float(max(np.median(apart), LEAST_NORM))
