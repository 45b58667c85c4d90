"""Is this anything known? How unlike everything kept a sample is, when nobody says what it is.

Three signs that fail on different inputs are each set against samples known to be in scope and added: the relative
Mahalanobis distance (Ren et al. 2021, arXiv:2106.09022), how far the nearest kept samples are as the mean over a few
of them sees it (Sun et al. 2022, arXiv:2204.06507), and, where a classifier is at hand, how low its largest logit is
(Hendrycks et al. 2022, arXiv:1911.11132). Nothing out of scope is needed to set it up.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array

SHRINKAGE = 0.5  # towards a round covariance, which a few samples a condition estimate better than a full one
NEAREST = 3
AT_ONCE = 256  # queries beside all kept samples: a few megabytes

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gaussians:
    """One Gaussian for each condition and one for everything. means: [C, d]; whitening matrices: [d, d]."""

    means: Array
    whitening: Array
    centre: Array
    whitening_of_all: Array


@dataclass(frozen=True, slots=True)
class Scope:
    """What is known. directions: [K, d], the kept samples seen from the centre, each of length one.

    `in_scope`: mean and spread of each sign over samples that are in scope, [signs, 2].
    """

    gaussians: Gaussians
    directions: Array
    in_scope: Scores


def known_scope(
    embeddings: Array, conditions: NDArray[np.int64], held_out: Array, logits: Array | None = None
) -> Scope:
    """What `embeddings` [K, d] of `conditions` [K] make known, measured on other samples in scope, `held_out` [M, d].

    `logits` [M, C]: a classifier's for `held_out`. Given here, they have to be given to `strangeness` too.
    """
    gaussians = _gaussians(embeddings, conditions)
    scope = Scope(gaussians, _directions(embeddings, gaussians.centre), np.zeros((0, 2)))
    signs = _signs(scope, held_out, logits)
    spread = signs.std(axis=1)
    return replace(scope, in_scope=np.stack((signs.mean(axis=1), np.where(spread > 0, spread, 1.0)), axis=1))


def strangeness(scope: Scope, queries: Array, logits: Array | None = None) -> Scores:
    """How unlike anything known each of `queries` [Q, d] is, in spreads of what is in scope (about 0 there): [Q]."""
    signs = _signs(scope, queries, logits)
    mean, spread = scope.in_scope.T
    standard: Scores = ((signs - mean[:, None]) / spread[:, None]).mean(axis=0)
    return standard


def relative_mahalanobis(known: Gaussians, queries: Array) -> Scores:
    """Squared distance to the nearest condition's Gaussian less that to everything's: [Q]."""
    seen, means = queries @ known.whitening, known.means @ known.whitening
    squares = np.sum(seen**2, axis=1)[:, None] - 2 * seen @ means.T + np.sum(means**2, axis=1)
    of_all = np.sum(((queries - known.centre) @ known.whitening_of_all) ** 2, axis=1)
    return np.asarray(squares.min(axis=1) - of_all, np.float64)


def _signs(scope: Scope, queries: Array, logits: Array | None) -> Scores:
    signs = [relative_mahalanobis(scope.gaussians, queries), _remoteness(scope, queries)]
    if logits is not None:
        signs.append(-np.asarray(logits.max(axis=1), np.float64))
    return np.stack(signs)


def _remoteness(scope: Scope, queries: Array) -> Scores:
    """One less the mean cosine to the nearest kept samples, seen from the centre."""
    directions = _directions(queries, scope.gaussians.centre)
    few = min(NEAREST, len(scope.directions))
    near = [
        np.partition(directions[start : start + AT_ONCE] @ scope.directions.T, -few, axis=1)[:, -few:].mean(axis=1)
        for start in range(0, len(queries), AT_ONCE)
    ]
    return 1 - np.concatenate([np.zeros(0), *near])


def _directions(embeddings: Array, centre: Array) -> Array:
    moved = embeddings - centre
    lengths: Array = np.linalg.norm(moved, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return moved / lengths


def _gaussians(embeddings: Array, conditions: NDArray[np.int64]) -> Gaussians:
    names, which = np.unique(conditions, return_inverse=True)
    means = np.stack([embeddings[which == index].mean(axis=0) for index in range(len(names))])
    centre = embeddings.mean(axis=0)
    return Gaussians(means, _whitening(embeddings - means[which]), centre, _whitening(embeddings - centre))


def _whitening(residuals: Array) -> Array:
    """[d, d]: residuals times this have the identity for a covariance, once theirs is shrunk."""
    wide = residuals.astype(np.float64)
    covariance = wide.T @ wide / len(wide)
    level = float(np.trace(covariance)) / len(covariance) or 1.0
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(len(covariance))
    whitening: Scores = np.linalg.inv(np.linalg.cholesky(shrunk)).T
    return whitening.astype(np.float32)
