"""A small classifier that learns from each kept sample at once, to say how surprising the next one is.

Recursive least squares on one-hot conditions: after every sample its weights are those of the ridge regression on all
kept so far (Plackett 1950), with no learning rate and no second pass. It sees only what was kept before.
"""

from dataclasses import dataclass

import numpy as np

from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Reader:
    """weights: [d, C]; covariance: [d, d], the inverse of the kept samples' second moments plus the ridge."""

    weights: Array
    covariance: Array

    @classmethod
    def ignorant(cls, width: int, num_conditions: int, ridge: float = 3.0) -> "Reader":
        """`ridge`: in kept samples' worth of squared length."""
        return cls(np.zeros((width, num_conditions), np.float32), np.eye(width, dtype=np.float32) / np.float32(ridge))


def learn(reader: Reader, embedding: Array, condition: int) -> Reader:
    """The reader after one more kept sample. embedding: [d]. O(d (d + C))."""
    seen = reader.covariance @ embedding
    gain = seen / (1 + embedding @ seen)
    error = -(embedding @ reader.weights)
    error[condition] += 1
    weights, covariance = np.outer(gain, error), np.outer(gain, seen)
    return Reader(
        np.add(reader.weights, weights, out=weights), np.subtract(reader.covariance, covariance, out=covariance)
    )


def surprise(reader: Reader, embedding: Array, condition: int) -> float:
    """By how much another condition looks likelier than the true one: the negative margin. embedding: [d].

    0 where nothing was learned, and where there is only one condition.
    """
    scores = embedding @ reader.weights
    if len(scores) == 1:
        return 0.0
    true, scores[condition] = scores[condition], -np.inf
    return float(scores.max() - true)
