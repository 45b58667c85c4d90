"""What a history of noised rounds costs: Renyi DP of the Poisson-subsampled Gaussian, turned into (epsilon, delta).

Mironov 2017 (arXiv:1702.07476) composes; Mironov, Talwar, Zhang 2019 (arXiv:1908.10530) give the subsampled Gaussian's
moments; Canonne, Kamath, Steinke 2020, Prop. 12 (arXiv:2004.00010) convert. Neighbours differ by one member added or
removed. An upper bound: about 10-15 % above the tight value of numerical accountants.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Near 1 for rounds with little noise, far out for rounds with much; the smallest result over them all counts.
_FRACTIONS = (1.0005, 1.001, 1.002, 1.005, 1.01, 1.02, 1.03, 1.05, 1.07, *(round(1 + i / 10, 1) for i in range(1, 100)))
_FRACTIONAL = tuple(order for order in _FRACTIONS if order != int(order))
_WHOLE = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024)
_ORDERS: NDArray[np.float64] = np.array([*_FRACTIONAL, *_WHOLE], np.float64)
_MIN_DEVIATION = 0.05  # below it the integral needs a very fine grid, and sampling hardly amplifies anyway
_NO_NOISE = 1e-100  # squares of less are no numbers any more


@dataclass(frozen=True, slots=True)
class Spending:
    """`rounds` rounds in which each member took part with chance `sample_rate`, under Gaussian noise."""

    noise_multiplier: float
    sample_rate: float
    rounds: int


def epsilon(spendings: Iterable[Spending], target_delta: float) -> float:
    """The epsilon at `target_delta` of all these rounds together: 0 for none, infinite for a round without noise."""
    if not 0 < target_delta < 1:
        raise ValueError(f"target_delta has to lie between 0 and 1, not {target_delta}")
    rounds: Counter[tuple[float, float]] = Counter()
    for each in spendings:
        if not (each.noise_multiplier >= 0 and 0 <= each.sample_rate <= 1 and each.rounds >= 0):
            raise ValueError(f"no round can have been like {each}")
        if each.rounds and each.sample_rate:
            rounds[each.noise_multiplier, each.sample_rate] += each.rounds
    if not rounds:
        return 0.0
    if any(noise_multiplier < _NO_NOISE for noise_multiplier, _ in rounds):
        return math.inf
    divergence = sum(count * divergences(*setting) for setting, count in sorted(rounds.items()))
    room = -(math.log(target_delta) + np.log(_ORDERS)) / (_ORDERS - 1) + np.log1p(-1 / _ORDERS)
    return max(0.0, float(np.min(divergence + room)))


@lru_cache(maxsize=256)
def divergences(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """Renyi divergence of one round at each order, [number of orders]."""
    unsampled = _ORDERS / (2 * noise_multiplier**2)  # sampling never costs: quasi-convexity, section 2 there
    if sample_rate == 1:
        return unsampled
    fractional = [
        moment_by_integral(noise_multiplier, sample_rate, order) / (order - 1)
        if noise_multiplier >= _MIN_DEVIATION
        else math.inf
        for order in _FRACTIONAL
    ]
    whole = [moment_by_sum(noise_multiplier, sample_rate, order) / (order - 1) for order in _WHOLE]
    sampled = np.maximum(np.array([*fractional, *whole], np.float64), 0.0)
    return np.minimum(sampled, unsampled)


def moment_by_sum(noise_multiplier: float, sample_rate: float, order: int) -> float:
    """Log E[(p/q)^order] for a whole order >= 2, by the binomial sum: section 3.3 of the 2019 paper."""
    k = np.arange(order + 1, dtype=np.float64)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, order + 1, dtype=np.float64)))])
    log_choose = log_factorial[order] - log_factorial - log_factorial[::-1]
    return _log_sum_exp(
        log_choose
        + (order - k) * math.log1p(-sample_rate)
        + k * math.log(sample_rate)
        + (k * k - k) / (2 * noise_multiplier**2)
    )


def moment_by_integral(noise_multiplier: float, sample_rate: float, order: float) -> float:
    """Log E[(p/q)^order] for any order > 1, by the trapezoid rule over x ~ N(0, noise_multiplier^2).

    The integrand is positive and analytic in a strip of half-width pi * noise_multiplier^2, so the rule converges
    geometrically; the alternating series of the 2019 paper loses digits by cancellation instead.
    """
    step = min(noise_multiplier, noise_multiplier**2) / 4
    x = np.arange(-12 * noise_multiplier, order + 12 * noise_multiplier, step)
    ratio = np.logaddexp(math.log1p(-sample_rate), math.log(sample_rate) + (2 * x - 1) / (2 * noise_multiplier**2))
    log_density = -0.5 * (x / noise_multiplier) ** 2 - math.log(noise_multiplier * math.sqrt(2 * math.pi))
    return _log_sum_exp(log_density + order * ratio) + math.log(step)


def _log_sum_exp(values: NDArray[np.float64]) -> float:
    peak = float(values.max())
    return peak + math.log(float(np.exp(values - peak).sum()))
