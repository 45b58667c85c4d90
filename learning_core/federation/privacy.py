"""Device-level differential privacy of a round: clip on the device, sum, then Gaussian noise, once, at the fog.

DP-FedAvg with a fixed denominator, McMahan et al. 2018, Alg. 1 (arXiv:1710.06963). Neighbouring fleets differ by one
device's whole participation (added or removed), so the sum moves by at most `clip_norm` and needs noise of standard
deviation `noise_multiplier * clip_norm` per coordinate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array, Params, Shapes, norm, shapes_of, zeros
from learning_core.updates import ClippedUpdate, Update

_ROOM_FOR_ROUNDING = 1 - 2.0**-22  # float32 rounds each number by at most a factor 1 + 2**-24


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The sum of `count` updates, each at most `clip_norm` long; only `accumulate` makes one.

    float64: in float32 the rounding of every later addition would depend on one device's numbers, and the sum could
    then move by more than `clip_norm`; it is held once per round, so the double width costs little.
    """

    total: Mapping[str, NDArray[np.float64]]
    clip_norm: float
    count: int


def clip(update: Update, clip_norm: float) -> ClippedUpdate:
    """Shorten the change to at most `clip_norm`, one norm over all tensors; what is not finite counts as no change."""
    if not (math.isfinite(clip_norm) and clip_norm > 0):
        raise ValueError(f"clip_norm has to be a positive number, not {clip_norm}")
    delta = {name: np.asarray(value, np.float32) for name, value in update.delta.items()}
    length = norm(delta)
    if not math.isfinite(length):
        delta = zeros(shapes_of(delta))
    elif length > clip_norm:
        factor = clip_norm / length * _ROOM_FOR_ROUNDING
        delta = {name: (value.astype(np.float64) * factor).astype(np.float32) for name, value in delta.items()}
    return ClippedUpdate(Update(delta, update.num_examples, update.base_version), clip_norm)


def accumulate(total: ClippedSum | None, clipped: ClippedUpdate) -> ClippedSum:
    """The sum with one more update in it; `None` is the sum of nothing. Every device counts the same."""
    delta = clipped.update.delta
    if total is None:
        wide = {name: value.astype(np.float64) for name, value in delta.items()}
        return ClippedSum(wide, clipped.clip_norm, 1)
    if clipped.clip_norm != total.clip_norm or delta.keys() != total.total.keys():
        raise ValueError("updates of one sum need the same names and the same clip_norm")
    return ClippedSum(
        {name: value + delta[name] for name, value in total.total.items()}, total.clip_norm, total.count + 1
    )


def noisy_mean(
    total: ClippedSum | None,
    shapes: Shapes,
    clip_norm: float,
    noise_multiplier: float,
    expected_cohort: float,
    rng: np.random.Generator,
) -> Params:
    """The sum plus Gaussian noise, over the cohort that was expected (not the one that came), as float32.

    Runs on an empty sum too: a round that released nothing when nobody took part would tell that nobody did.
    """
    if total is not None and (total.clip_norm > clip_norm or dict(shapes) != shapes_of_sum(total)):
        raise ValueError("the sum does not have the shapes and clip_norm that the noise is meant for")
    if not (expected_cohort > 0 and noise_multiplier >= 0):
        raise ValueError("expected_cohort has to be positive and noise_multiplier not negative")
    deviation = noise_multiplier * clip_norm

    def released(name: str, shape: tuple[int, ...]) -> Array:
        noise = deviation * rng.standard_normal(shape)
        exact = noise if total is None else total.total[name] + noise
        return np.asarray(exact / expected_cohort, np.float32)

    return {name: released(name, tuple(shapes[name])) for name in sorted(shapes)}


def shapes_of_sum(total: ClippedSum) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in total.total.items()}
