"""How demanding to be so that the kept samples come to a given share of the stream: a percentile that moves.

A sample's score is standardised by the running mean and spread of the scores before it, so the bar is a quantile of
what the stream gives now and follows it when the model learns or the world changes. The bar starts at the normal
quantile of the share and is raised with every sample kept beyond the share and lowered with every one missing, which
is the stochastic quantile of Robbins and Monro (1951) with a step in spreads: the share kept cannot wander off.
"""

from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist

MEMORY = 100  # samples the running mean looks back on
STEP = 0.05  # of a spread, for each sample kept too many or too few
MOST_CREDIT = 80.0  # samples; what a stream of duplicates leaves unused lapses, what was kept too many is paid back


@dataclass(frozen=True, slots=True)
class Running:
    """Mean and variance of a stream that forgets: exact over the first `MEMORY` values, exponential afterwards."""

    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0

    def plus(self, value: float) -> "Running":
        weight = 1 / min(self.seen + 1, MEMORY)
        change = value - self.mean
        variance = (1 - weight) * (self.variance + weight * change * change)
        return Running(self.mean + weight * change, variance, self.seen + 1)

    def standard(self, value: float) -> float:
        """`value` in spreads from the mean, 0 while everything was equal."""
        return (value - self.mean) / sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Threshold:
    """The whole state of the novelty filter.

    `ahead`: samples kept beyond the share, negative while too few are. `typical`: distances between samples of one
    condition, `novelty` (in typical distances) and `surprise`: what the stream's samples scored.
    """

    ahead: float = 0.0
    typical: Running = Running()
    novelty: Running = Running()
    surprise: Running = Running()

    def bar(self, keep_share: float) -> float:
        """The score, in spreads, that a sample has to reach now. At a share of one, everything does."""
        if keep_share >= 1:
            return float("-inf")
        return NormalDist().inv_cdf(1 - keep_share) + STEP * self.ahead

    def after(self, keep: bool, keep_share: float) -> "Threshold":
        return replace(self, ahead=max(-MOST_CREDIT, self.ahead + float(keep) - keep_share))
