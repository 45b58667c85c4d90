"""How far a generator with an adapter has gone from its base on a golden set, and how far honest learning goes.

Every figure is turned into harm: 0 for the base itself, larger is worse. A bound on harm is a tolerance bound over
the harms of healthy updates, so no threshold has to be guessed for a model, a judge or a task.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from learning_core.metrics.images import class_fidelity, kid, leave_one_out_ratio, out_of_range_share
from learning_core.params import Array

HARMS = ("fidelity", "kid", "out_of_range", "agreement", "memorising")
"""What the columns of a matrix of harms are about."""
FEWEST_HEALTHY = 5  # updates from which a bound can be told
FEWEST_KEPT = 16  # samples from which it can be told whether a generator repeats them
COVERED, CONFIDENCE = 0.95, 0.95  # of all healthy updates, by all bounds together, and how sure that is
LEAST_NORM = 1e-12

Harms = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Figures:
    """How a student draws a golden set; all but `finite` mean nothing unless it is true.

    `agreement`: mean cosine to a teacher's samples from the same noise, in a judge's features. `nearness`: how near
    samples of learned conditions come to those learned from, 1 for as near as those are to each other; None: not told.
    """

    fidelity: float
    kid: float
    out_of_range: float
    agreement: float = 1.0
    nearness: float | None = None
    finite: bool = True


NOT_FINITE = Figures(0.0, math.inf, 1.0, -1.0, None, finite=False)


def figures(samples: Array, logits: Array, features: Array, conditions: Labels, real: Array, teacher: Array) -> Figures:
    """Of samples [N, ...] as a judge sees them: logits [N, K] and features [N, f]; asked for as `conditions` [N].

    `real`: features of real samples, [M, f]; `teacher`: of the teacher's samples from the same noise, [N, f].
    """
    if not all(np.isfinite(each).all() for each in (samples, logits, features)):
        return NOT_FINITE
    return Figures(
        fidelity=class_fidelity(logits, conditions),
        kid=kid(features, real),
        out_of_range=out_of_range_share(samples),
        agreement=agreement(features, teacher),
    )


def agreement(left: Array, right: Array) -> float:
    """Mean cosine of rows that belong together, both [N, f]: 1 for the same direction everywhere.

    Flow models that learned one distribution map the same noise to much the same sample, whatever their size:
    Zhang et al. 2023 (arXiv:2310.05264).
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, LEAST_NORM)).mean())


def nearness(drawn: Array, kept: Array) -> float | None:
    """Whether samples repeat what was learned from; both as features [N, f]. None when too few or too alike to tell."""
    if len(drawn) == 0 or len(kept) < FEWEST_KEPT or not np.isfinite(drawn).all():
        return None
    return leave_one_out_ratio(drawn, kept)


def harms(found: Figures, base: Figures) -> Harms:
    """[5], by `HARMS`: how much worse than the base; nan where that is not told."""
    near = math.nan if found.nearness is None else -math.log(max(found.nearness, LEAST_NORM))
    return np.array(
        [
            base.fidelity - found.fidelity,
            found.kid - base.kid,
            found.out_of_range - base.out_of_range,
            base.agreement - found.agreement,
            near,
        ]
    )


def bounds(healthy: Harms, resolution: Harms, together: int) -> Harms:
    """[F]: what healthy updates stay below, from the harms of K >= 5, [K, F], and never finer than a `resolution` [F].

    Mean + k * spread, with the k for which enough of a normal distribution lies below with `CONFIDENCE`: enough for
    `together` such bounds to leave `COVERED` of all updates at least, whatever they have to do with each other
    (Bonferroni).
    """
    factor = tolerance_factor(len(healthy), 1 - (1 - COVERED) / together)
    bound = healthy.mean(axis=0) + factor * healthy.std(axis=0, ddof=1)
    return np.asarray(np.maximum(bound, resolution))


def resolution(count: int, values: int, real: Array) -> Harms:
    """[5], by `HARMS`: what a golden set of `count` samples with `values` numbers cannot tell from nothing.

    One sample, one value, what two halves of the real samples' features [M, f] differ by, and half as near as usual.
    """
    apart = abs(kid(real[::2], real[1::2])) if len(real) >= 4 else 0.0
    return np.array([1 / count, apart, 1 / values, 1 / count, math.log(2)])


def tolerance_factor(count: int, covered: float, confidence: float = CONFIDENCE) -> float:
    """Factor k of a one-sided normal tolerance bound: Natrella 1963 (NIST handbook 7.2.6.3), a percent low for few."""
    if count < FEWEST_HEALTHY:
        raise ValueError(f"{count} healthy updates are too few to tell a bound from; {FEWEST_HEALTHY} are needed")
    z, sure = NormalDist().inv_cdf(covered), NormalDist().inv_cdf(confidence)
    a, b = 1 - sure**2 / (2 * (count - 1)), z**2 - sure**2 / count
    return (z + math.sqrt(z**2 - a * b)) / a
