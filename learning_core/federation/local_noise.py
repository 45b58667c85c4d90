"""Samples that may leave a device: each clipped and noised before it does, so that nobody need be trusted with it.

The Gaussian mechanism applied by whoever owns the data, Dwork and Roth 2014, section 3.5.3 and appendix A, in the local
model. One sample is one vector of length at most 1: its features over `clip_norm` and its class as a one, each over
sqrt 2. The noise has a standard deviation of `noise_multiplier` on each number of it.

Against the removal of one sample, n noised samples cost what one release with `noise_multiplier` costs. Against the
removal of all that a device ever sent, which is what a device's odometer counts, the n vectors are one of length at
most sqrt n: they cost what one release with `noise_multiplier / sqrt n` costs.
"""

import math

import numpy as np

from learning_core.federation.accountant import Spending
from learning_core.params import Array
from learning_core.samples import Batch

_PART = 1 / math.sqrt(2)  # features and class have an equal part in a sample's length


def noise_deviation(clip_norm: float, noise_multiplier: float) -> float:
    """Standard deviation of the noise on each feature, in the features' own unit."""
    return noise_multiplier * clip_norm / _PART


def noised(
    samples: Batch, num_conditions: int, clip_norm: float, noise_multiplier: float, rng: np.random.Generator
) -> Batch:
    """The same number of samples; a class is the largest of its noised ones. What is not finite counts as nothing.

    Raises ValueError unless both settings are positive.
    """
    if not (clip_norm > 0 and noise_multiplier > 0 and math.isfinite(clip_norm) and math.isfinite(noise_multiplier)):
        raise ValueError("samples are noised with a positive clip_norm and noise_multiplier")
    flat = np.asarray(samples.features, np.float64).reshape(len(samples), math.prod(samples.features.shape[1:]))
    flat = np.where(np.isfinite(flat).all(axis=1, keepdims=True), flat, 0.0)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    clipped = flat * np.minimum(1.0, clip_norm / np.maximum(lengths, 1e-300))
    features = clipped + noise_deviation(clip_norm, noise_multiplier) * rng.standard_normal(flat.shape)
    votes = _PART * np.eye(num_conditions)[samples.conditions]
    votes = votes + noise_multiplier * rng.standard_normal(votes.shape)
    shaped: Array = features.astype(np.float32).reshape(samples.features.shape)
    return Batch(shaped, votes.argmax(axis=1).astype(np.int64))


def cost(count: int, noise_multiplier: float) -> Spending:
    """What `count` noised samples cost a device, as if they were one round."""
    if count < 1:
        raise ValueError("no samples cost nothing; there is nothing to charge")
    return Spending(noise_multiplier / math.sqrt(count), 1.0, 1)
