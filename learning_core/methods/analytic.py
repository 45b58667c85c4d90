"""The analytic head: sums of features are all that is kept, and from them the best linear head is solved, not trained.

Ridge regression from summed Gram matrices forgets nothing, whatever the order of classes: ACIL, Zhuang et al. 2022
(arXiv:2205.14922). Random ReLU features make the classes easier to tell apart by a line: RanPAC, McDonnell et al. 2023
(arXiv:2307.02251). Features are put on a grid on which float64 adds without rounding, so that sums from any order, any
batches and any nodes are the same to the bit, and a sample is unlearned by taking it away. The sums still tell of the
samples; `noised` ones may be released.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array

Wide = NDArray[np.float64]
Labels = NDArray[np.int64]
Lift = Callable[[Array], Wide]
"""Embeddings [N, d] -> features [N, D] on the grid."""

GRID = 2.0**-14
MIN_BLOCK_BITS = 6  # smaller blocks have too few directions
EXACT_BELOW = GRID**2 * 2.0**53  # a sum of products of grid numbers is exact in float64 up to here, 2**25
BLOCK = 256
_ROOM_FOR_ROUNDING = 1 - 2.0**-40


def on_grid(features: Array | Wide) -> Wide:
    """Cut towards zero to multiples of 2**-14: no row becomes longer by it."""
    return np.trunc(np.asarray(features, np.float64) / GRID) * GRID


def centred_units(x: Array, centre: Array, parts: int = 1) -> Array:
    """Rows about `centre` [d], each of `parts` equal pieces of them brought to one length, all together to length 1.

    Embeddings share a large mean; what is left without it tells the classes apart. The centre is of public samples,
    so that it is the same for all and tells of nobody.
    """
    pieces = np.split(np.asarray(x, np.float32) - centre, parts, axis=1)
    lengths = [np.linalg.norm(piece, axis=1, keepdims=True) * np.float32(math.sqrt(parts)) for piece in pieces]
    units = [piece / np.maximum(length, 1e-12) for piece, length in zip(pieces, lengths, strict=True)]
    return np.asarray(np.concatenate(units, axis=1), np.float32)


def relu_features(width: int, count: int, seed: int) -> Lift:
    """max(0, x W) with W: [width, count] drawn from the seed, its entries about standard normal. For rows of length 1.

    The directions are orthogonal in blocks, products of Hadamard matrices with random signs, and so cover more than
    independent ones: Yu et al. 2016 (arXiv:1610.09072). All are multiples of a power of two, which float64 multiplies
    with an x on the grid without rounding: every machine makes the same bits of one x.
    """
    rng = np.random.default_rng(seed)
    size = 1 << max(MIN_BLOCK_BITS, (width - 1).bit_length())
    hadamard = np.ones((1, 1))
    while len(hadamard) < size:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])

    def block() -> Wide:
        first, second, third = rng.choice((-1.0, 1.0), (3, size))
        product = (hadamard[:width] * first) @ hadamard
        return np.asarray(third[:width, None] * ((product * second) @ hadamard) / size)

    weights = np.concatenate([block() for _ in range(-(-count // size))], axis=1)[:, :count]

    def lift(x: Array) -> Wide:
        return on_grid(np.maximum(on_grid(x) @ weights, 0.0))

    return lift


@dataclass(frozen=True, slots=True)
class Statistics:
    """gram: [D, D], the sum of phi phi^T; cross: [D, K], the sum of phi by class; counts: [K].

    Sums are exact while none passes 2**25: some thirty million samples of features around one.
    """

    gram: Wide
    cross: Wide
    counts: Wide

    def plus(self, other: "Statistics") -> "Statistics":
        return Statistics(self.gram + other.gram, self.cross + other.cross, self.counts + other.counts)

    def minus(self, other: "Statistics") -> "Statistics":
        """Without what is in `other`, as though those features had never been added; ValueError where they were not."""
        if (self.counts < other.counts).any():
            raise ValueError("there is more to unlearn of some class than was ever learned")
        return Statistics(self.gram - other.gram, self.cross - other.cross, self.counts - other.counts)

    @property
    def num_bytes(self) -> int:
        """What a node holds in memory."""
        return self.gram.nbytes + self.cross.nbytes + self.counts.nbytes

    @property
    def message_bytes(self) -> int:
        """What a node has to send: the Gram matrix is symmetric, so little more than half."""
        rows = len(self.gram)
        return 8 * (rows * (rows + 1) // 2) + self.cross.nbytes + self.counts.nbytes


def statistics_of(features: Wide, labels: Labels, num_classes: int) -> Statistics:
    """The sums over some samples, none included. features: [N, D] on the grid; labels: [N] in 0..num_classes."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(f"labels have to lie in 0..{num_classes - 1}")
    if (np.trunc(features / GRID) * GRID != features).any():
        raise ValueError("these features are not on the grid; put them there with on_grid")
    gram = features.T @ features
    if len(gram) and not gram.diagonal().max() < EXACT_BELOW:
        raise ValueError("these features are too large for exact sums; scale them down")
    cross = np.zeros((features.shape[1], num_classes))
    for label in np.unique(labels):
        cross[:, label] = features[labels == label].sum(axis=0)
    return Statistics(gram, cross, np.bincount(labels, minlength=num_classes).astype(np.float64))


def total(parts: Iterable[Statistics]) -> Statistics:
    """The sum over nodes or tasks, at least one: the same bits whatever their order."""
    return reduce(Statistics.plus, parts)


@dataclass(frozen=True, slots=True)
class BoundedStatistics:
    """Sums over features of at most `bound` length each; only `bounded_statistics` and `plus` make them."""

    sums: Statistics
    bound: float

    def plus(self, other: "BoundedStatistics") -> "BoundedStatistics":
        if self.bound != other.bound:
            raise ValueError("sums of one release need the same bound")
        return BoundedStatistics(self.sums.plus(other.sums), self.bound)

    @property
    def sensitivity(self) -> float:
        """How far one sample moves all that is released, as one vector: sqrt(bound^4 + bound^2 + 1).

        Its outer product moves the Gram matrix by at most bound^2, its feature the cross sums by bound, its class
        the counts by 1.
        """
        return math.sqrt(self.bound**4 + self.bound**2 + 1)


@dataclass(frozen=True, slots=True)
class NoisedStatistics:
    """What may be released, and what it cost: one full round at `noise_multiplier`."""

    sums: Statistics
    noise_multiplier: float


def bounded_statistics(features: Wide, labels: Labels, num_classes: int, bound: float) -> BoundedStatistics:
    """The sums with every row shortened to at most `bound`; rows that are not finite count as zero."""
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"the bound has to be a positive number, not {bound}")
    finite = np.where(np.isfinite(features).all(axis=1, keepdims=True), features, 0.0)
    lengths = np.linalg.norm(finite, axis=1, keepdims=True)
    factors = np.where(lengths > bound, bound / np.maximum(lengths, bound) * _ROOM_FOR_ROUNDING, 1.0)
    return BoundedStatistics(statistics_of(on_grid(finite * factors), labels, num_classes), bound)


def noised(bounded: BoundedStatistics, noise_multiplier: float, rng: np.random.Generator) -> NoisedStatistics:
    """Gaussian noise of noise_multiplier * sensitivity on every number that is released, one triangle of the Gram.

    Sufficient-statistics perturbation: Foulds et al. 2016 (arXiv:1603.07294), Wang 2018 (arXiv:1803.02596). Neighbours
    differ by one sample, added or removed; a release is one round that every sample takes part in, so the accountant
    is told of (noise_multiplier, sample rate 1, 1 round). Bringing counts to >= 0 and the scatter about the mean back
    to the nearest positive semi-definite one, so that `ridge` can be solved, comes after and costs nothing.
    """
    if not noise_multiplier >= 0:
        raise ValueError("noise_multiplier may not be negative")
    deviation, sums = noise_multiplier * bounded.sensitivity, bounded.sums
    triangle = np.triu(rng.standard_normal(sums.gram.shape))
    gram = sums.gram + deviation * (triangle + np.triu(triangle, 1).T)
    cross = sums.cross + deviation * rng.standard_normal(sums.cross.shape)
    counts = np.maximum(sums.counts + deviation * rng.standard_normal(sums.counts.shape), 0.0)
    scatter, *_ = _centred(Statistics(gram, cross, counts))
    values, vectors = np.linalg.eigh(scatter)
    gram = gram - scatter + (vectors * np.maximum(values, 0)) @ vectors.T
    return NoisedStatistics(Statistics(gram, cross, counts), noise_multiplier)


@dataclass(frozen=True, slots=True)
class Head:
    """weights: [D, K]; bias: [K]."""

    weights: Wide
    bias: Wide

    def logits(self, features: Wide) -> Array:
        return np.asarray(features @ self.weights + self.bias, np.float32)


def ridge(statistics: Statistics, strength: float) -> Head:
    """Least squares to one-hot targets, the bias unpenalised. Classes without samples are never answered.

    `strength` > 0, in mean squared features summed over the samples: what suits few samples suits many.
    """
    gram, cross, mean, rate = _centred(statistics)
    weights = solve(gram, _scale(gram) * strength, cross)
    bias = rate - mean @ weights
    return Head(weights, np.where(statistics.counts > 0, bias, -np.inf))


def lda(statistics: Statistics, shrinkage: float) -> Head:
    """Linear discriminant analysis: one Gaussian for each class, all with one covariance, equal chances.

    `shrinkage` in 0..1 of the covariance is replaced by its mean variance. Fisher 1936; streaming form: Hayes and
    Kanan 2020 (arXiv:1909.01520).
    """
    seen = statistics.counts > 0
    means = statistics.cross / np.maximum(statistics.counts, 1)
    within = statistics.gram - (means * statistics.counts) @ means.T
    weights = solve(within * (1 - shrinkage), _scale(within) * shrinkage, means) * max(statistics.counts.sum(), 1)
    return Head(weights, np.where(seen, -0.5 * (means * weights).sum(axis=0), -np.inf))


def squared_error(head: Head, held_out: Statistics) -> float:
    """Mean squared error of a head to one-hot targets on samples of which only the sums are kept."""
    seen = held_out.counts > 0
    if not np.isfinite(head.bias[seen]).all() or not seen.any():
        raise ValueError("the held-out sums need samples, and only of classes the head knows")
    known = np.isfinite(head.bias)
    weights, bias, cross, counts = head.weights[:, known], head.bias[known], held_out.cross[:, known], held_out.counts
    number = float(counts.sum())
    squares = float(np.sum(weights * (held_out.gram @ weights)) + 2 * held_out.cross.sum(axis=1) @ weights @ bias)
    squares += number * float(bias @ bias)
    hits = float(np.sum(weights * cross) + bias @ counts[known])
    return (squares - 2 * hits + number) / number


def generalised_cross_validation(statistics: Statistics, strength: float) -> float:
    """What leaving samples out in turn would show, without the samples. Golub, Heath, Wahba 1979, eq. 1.4."""
    gram, *_ = _centred(statistics)
    number = float(statistics.counts.sum())
    spectrum = np.clip(np.linalg.eigvalsh(gram), 0, None)
    freedom = 1 + float(np.sum(spectrum / (spectrum + _scale(gram) * strength)))
    return squared_error(ridge(statistics, strength), statistics) / max(1 - freedom / number, 1e-9) ** 2


def solve(gram: Wide, ridge_added: float, right: Wide) -> Wide:
    """(gram + ridge_added I)^-1 right by Cholesky, with the substitutions in blocks. Raises LinAlgError if singular."""
    lower = np.linalg.cholesky(gram + ridge_added * np.eye(len(gram)))
    found = np.array(right, np.float64)
    starts = range(0, len(gram), BLOCK)
    for start in starts:  # L z = right
        block = slice(start, start + BLOCK)
        found[block] = np.linalg.solve(lower[block, block], found[block] - lower[block, :start] @ found[:start])
    for start in reversed(starts):  # L^T x = z
        block, rest = slice(start, start + BLOCK), slice(start + BLOCK, None)
        found[block] = np.linalg.solve(lower[block, block].T, found[block] - lower[rest, block].T @ found[rest])
    return found


def _centred(statistics: Statistics) -> tuple[Wide, Wide, Wide, Wide]:
    """Gram [D, D] and cross [D, K] about the mean feature [D], and each class's share [K]."""
    number = max(float(statistics.counts.sum()), 1.0)
    mean, rate = statistics.cross.sum(axis=1) / number, statistics.counts / number
    return (
        statistics.gram - number * np.outer(mean, mean),
        statistics.cross - number * np.outer(mean, rate),
        mean,
        rate,
    )


def _scale(gram: Wide) -> float:
    """The mean of the diagonal; 1 where nothing varies, so that a strength still makes the matrix regular."""
    mean = float(gram.diagonal().mean()) if len(gram) else 0.0
    return mean if mean > 0 else 1.0
