"""What a student's answers look like now, in a few numbers of which larger is always worse.

Some are exact: the same request drawn twice, or in two ways that have to agree, differs by 0 or something is wrong.
The others are usual or not: how they vary while all is well says what is much (`thresholds`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from learning_core.memory.diversity import vendi
from learning_core.memory.drift import shift
from learning_core.memory.kernel import rbf
from learning_core.metrics.images import out_of_range_share, ssim
from learning_core.params import Array

LEAST_TO_COMPARE = 12  # answers below which drift and diversity are noise
ABSURD = 1e6  # no z-scored feature is as large
LOW = 0.25  # quantile of the anchor cosine


class Signal(StrEnum):
    """What is looked at in every tick."""

    FILES = "files"  # 1 when a file of the release is not what its manifest says
    PROBE = "probe"  # golden requests, drawn as intended, against what they gave when this student was approved
    LIVE_PROBE = "live_probe"  # golden requests through the door, against drawing them as intended now
    FLICKER = "flicker"  # a request of the last tick, asked again
    ANCHOR = "anchor"  # how far answers lie from the usual ones of their condition
    VARIATION = "variation"  # total variation, against that of golden samples
    OUT_OF_RANGE = "out_of_range"
    LATENCY = "latency"  # log2 of the time a pass takes, over the usual
    DRIFT = "drift"  # of what answers look like beside their condition
    DIVERSITY = "diversity"  # how much of it was lost


EXACT = frozenset({Signal.FILES, Signal.PROBE, Signal.LIVE_PROBE, Signal.FLICKER})
Values = Mapping[Signal, float]


@dataclass(frozen=True, slots=True)
class Reference:
    """What an approved student does. centroids: [K, f] of length 1, or 0 where nothing good of a condition was seen.

    residuals: [N, f], golden features beside their condition's centroid; `variation` of golden samples;
    `anchor`: their mean cosine.
    """

    centroids: Array
    residuals: Array
    variation: float
    anchor: float


@dataclass(frozen=True, slots=True)
class Look:
    """One tick. samples: [N, C, H, W], features: [N, f] and conditions: [N] of the latest answers, the newest last.

    `fresh` of them came since the last tick. `slow`: log2 of what their passes took, over the usual; `probe`,
    `live_probe` and `flicker`: 1 - SSIM. None is what could not be seen.
    """

    samples: Array
    features: Array
    conditions: NDArray[np.int64]
    fresh: int
    slow: float | None
    files_sound: bool
    probe: float | None
    live_probe: float | None
    flicker: float | None


def observe(look: Look, reference: Reference, rng: np.random.Generator, least: int = 8) -> dict[Signal, float]:
    """Every signal of which something is known now; of answers, over the fresh ones, or `least` if those are fewer."""
    values = {Signal.FILES: float(not look.files_sound)}
    seen = {
        Signal.PROBE: look.probe,
        Signal.LIVE_PROBE: look.live_probe,
        Signal.FLICKER: look.flicker,
        Signal.LATENCY: look.slow,
    }
    values |= {signal: value for signal, value in seen.items() if value is not None}
    latest = slice(-max(look.fresh, least), None)
    if look.fresh and len(look.samples):
        samples, features, conditions = look.samples[latest], look.features[latest], look.conditions[latest]
        values[Signal.ANCHOR] = float(1 - np.quantile(cosines(features, conditions, reference.centroids), LOW))
        values[Signal.VARIATION] = abs(float(np.log2(max(variation(samples), 1e-6) / reference.variation)))
        values[Signal.OUT_OF_RANGE] = out_of_range_share(samples)
    finite = (np.abs(look.features) < ABSURD).all(axis=1)
    if look.fresh and finite.sum() >= LEAST_TO_COMPARE:
        beside = residuals(look.features[finite], look.conditions[finite], reference.centroids)
        values[Signal.DRIFT] = max(0.0, shift(reference.residuals, beside, rng, 0.05, 19).discrepancy)
        values[Signal.DIVERSITY] = lost_diversity(reference.residuals, beside)
    return values


def cosines(features: Array, conditions: NDArray[np.int64], centroids: Array) -> NDArray[np.float64]:
    """Of each answer with the usual ones of what was asked, [N] in -1..1; -1 where a feature is not a number."""
    believed = np.asarray((np.abs(features) < ABSURD).all(axis=1))
    rows = np.where(believed[:, None], features, 0).astype(np.float64)
    towards = np.einsum("nf,nf->n", rows, centroids[conditions].astype(np.float64))
    return np.where(believed, towards / np.maximum(np.linalg.norm(rows, axis=1), 1e-9), -1.0)


def residuals(features: Array, conditions: NDArray[np.int64], centroids: Array) -> Array:
    """What of each answer's direction its condition does not explain, [N, f]: a change of who asks for what is none."""
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    return np.asarray(units - centroids[conditions], np.float32)


def centroids_of(logits: Array, features: Array, conditions: NDArray[np.int64], num_conditions: int) -> Array:
    """Mean direction [K, f] of those samples that a judge takes for what was asked; 0 where there are none."""
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    found = np.zeros((num_conditions, features.shape[1]), np.float32)
    right = logits.argmax(axis=1) == conditions
    for condition in np.unique(conditions[right]):
        mean = units[right & (conditions == condition)].mean(axis=0)
        found[condition] = mean / max(float(np.linalg.norm(mean)), 1e-9)
    return found


def variation(samples: Array) -> float:
    """Total variation per value: mean absolute step to the next pixel, down and right. samples: [N, C, H, W]."""
    x = np.where(np.isfinite(samples), samples, 0).astype(np.float64)
    return float(np.abs(np.diff(x, axis=2)).mean() + np.abs(np.diff(x, axis=3)).mean())


def apart(left: Array, right: Array) -> float:
    """Mean 1 - SSIM of pairs [N, C, H, W], exactly 0 for equal ones, 1 for a pair that holds no number."""
    return float(apart_each(left, right).mean())


def apart_each(left: Array, right: Array) -> NDArray[np.float64]:
    """1 - SSIM of each pair, [N]; 0 for the same, also if it is the same nonsense, else 1 where it is not a number."""
    with np.errstate(all="ignore"):
        unlike = 1 - ssim(left, right)
    unlike = np.where(np.isfinite(unlike), unlike, 1.0)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    return np.where(same.all(axis=(1, 2, 3)), 0.0, np.maximum(unlike, 0.0))


def lost_diversity(usual: Array, current: Array) -> float:
    """Share 0..1 of the effective number of different ones that is missing, over equally many of both."""
    num = min(len(usual), len(current))
    similarity = rbf(np.concatenate((usual[:num], current[-num:])))
    before, after = vendi(similarity[:num, :num]), vendi(similarity[num:, num:])
    return max(0.0, 1 - after / before)
