"""Which samples of a stream are worth keeping: those unlike what is kept, or those the model gets wrong.

Nearly the same sample twice is dropped whatever else it is. The others are ranked by surprise where the caller has a
model to ask, which finds those near a boundary; else by novelty, the distance to the nearest kept sample of the same
condition in typical distances. (Adding distance to surprise was tried and helped on no stream.) How high a sample has
to rank follows from the share of the stream that may be kept (`keep_budget`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from learning_core.memory.keep_budget import Threshold
from learning_core.params import Array

SAME = 1e-3  # of an embedding's own length: closer than this is equal, whatever is typical


class Why(StrEnum):
    """Why a sample was kept (the first four) or dropped."""

    FIRST = "first"  # of its condition
    RARE = "rare"  # its condition has few kept samples
    NOVEL = "novel"  # far from what is kept
    SURPRISING = "surprising"  # the model got it wrong, or nearly
    DUPLICATE = "duplicate"
    FAMILIAR = "familiar"  # neither novel nor surprising enough for the share that may be kept
    NOT_FINITE = "not_finite"  # its embedding or its surprise is no number


@dataclass(frozen=True, slots=True)
class Rule:
    """`keep_share` 0..1 of the stream; `duplicate_below` in typical distances; fewer than `rare_below` is rare."""

    keep_share: float = 0.3
    duplicate_below: float = 0.25
    rare_below: int = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """`novelty` in typical distances, infinite when there is nothing to compare with."""

    keep: bool
    why: Why
    novelty: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What is in memory: the embeddings of each condition, [K, d] float32, oldest first."""

    by_condition: Mapping[int, Array]

    @classmethod
    def of(cls, embeddings: Array, conditions: NDArray[np.int64]) -> "Kept":
        """embeddings: [K, d]; conditions: [K]."""
        return cls({int(condition): embeddings[conditions == condition] for condition in np.unique(conditions)})

    def plus(self, embedding: Array, condition: int) -> "Kept":
        alike = self.by_condition.get(condition, embedding[None, :][:0])
        return Kept({**self.by_condition, condition: np.vstack((alike, embedding))})


NOTHING = Kept({})


def judge(
    embedding: Array, condition: int, kept: Kept, threshold: Threshold, rule: Rule, surprise: float | None = None
) -> tuple[Judgement, Threshold]:
    """Keep or drop one sample, with the reason, and the threshold for the next one.

    embedding: [d]. `surprise`: how wrong or unsure the present model is (a loss, an entropy, a negative margin), in
    any unit, larger for worse; None where no model can tell. Costs one pass over the kept samples of its condition.
    """
    if not isfinite(float(np.linalg.norm(embedding))) or not (surprise is None or isfinite(surprise)):
        return Judgement(False, Why.NOT_FINITE, float("nan")), threshold
    judgement, threshold = _judged(embedding, kept.by_condition.get(condition), threshold, rule, surprise)
    return judgement, threshold.after(judgement.keep, rule.keep_share)


def _judged(
    embedding: Array, alike: Array | None, threshold: Threshold, rule: Rule, surprise: float | None
) -> tuple[Judgement, Threshold]:
    if alike is None:
        return Judgement(True, Why.FIRST, float("inf")), threshold
    distances = np.linalg.norm(alike - embedding, axis=1)
    nearest = float(distances.min())
    if nearest <= SAME * float(np.linalg.norm(embedding)):
        return Judgement(False, Why.DUPLICATE, 0.0), threshold
    threshold = replace(threshold, typical=threshold.typical.plus(float(np.median(distances))))
    novelty = nearest / threshold.typical.mean
    if novelty < rule.duplicate_below:
        return Judgement(False, Why.DUPLICATE, novelty), threshold
    score, why, threshold = _score(novelty, surprise, threshold)
    if len(alike) < rule.rare_below:
        return Judgement(True, Why.RARE, novelty), threshold
    if score < threshold.bar(rule.keep_share):
        return Judgement(False, Why.FAMILIAR, novelty), threshold
    return Judgement(True, why, novelty), threshold


def _score(novelty: float, surprise: float | None, threshold: Threshold) -> tuple[float, Why, Threshold]:
    """The sample's score in spreads of its stream, what was scored, and the threshold that has seen it."""
    if surprise is None:
        threshold = replace(threshold, novelty=threshold.novelty.plus(novelty))
        return threshold.novelty.standard(novelty), Why.NOVEL, threshold
    threshold = replace(threshold, surprise=threshold.surprise.plus(surprise))
    return threshold.surprise.standard(surprise), Why.SURPRISING, threshold
