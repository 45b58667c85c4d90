"""Which samples of a stream are worth keeping: those unlike what is kept already.

Novelty is the distance to the nearest kept embedding of the same condition, measured in typical distances between
kept ones, so that it means the same for every model and every condition. A stochastic quantile (Robbins and Monro
1951) tracks the novelty that lets `keep_share` of the stream through.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array

SAME = 1e-3  # of an embedding's own length: closer than this is equal, whatever the spread is
MOST_NOVEL = 4.0


class Why(StrEnum):
    """Why a sample was kept (the first three) or dropped."""

    FIRST = "first"  # of its condition
    RARE = "rare"  # its condition has few kept samples
    NOVEL = "novel"
    DUPLICATE = "duplicate"
    FAMILIAR = "familiar"  # not novel enough for the share that may be kept


@dataclass(frozen=True, slots=True)
class Rule:
    """`keep_share` 0..1 of the stream; `duplicate_below` in typical distances; fewer than `rare_below` is rare."""

    keep_share: float = 0.3
    duplicate_below: float = 0.25
    rare_below: int = 4
    rate: float = 0.02  # how fast the threshold follows, in typical distances a sample


@dataclass(frozen=True, slots=True)
class Threshold:
    """How novel a sample has to be now, in typical distances: the whole state of the filter."""

    value: float = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """`novelty` in typical distances, infinite when there is nothing to compare with."""

    keep: bool
    why: Why
    novelty: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What is in memory. embeddings: [K, d] float32; conditions: [K] int64."""

    embeddings: Array
    conditions: NDArray[np.int64]

    @classmethod
    def nothing(cls, width: int) -> "Kept":
        return cls(np.zeros((0, width), np.float32), np.zeros(0, np.int64))

    def plus(self, embedding: Array, condition: int) -> "Kept":
        return Kept(np.vstack((self.embeddings, embedding[None])), np.append(self.conditions, condition))


def judge(
    embedding: Array, condition: int, kept: Kept, threshold: Threshold, rule: Rule
) -> tuple[Judgement, Threshold]:
    """Keep or drop one sample, with the reason, and the threshold for the next one. embedding: [d]."""
    judgement = _judgement(embedding, condition, kept, threshold, rule)
    moved = threshold.value + rule.rate * (float(judgement.keep) - rule.keep_share)
    return judgement, Threshold(min(MOST_NOVEL, max(rule.duplicate_below, moved)))


def _judgement(embedding: Array, condition: int, kept: Kept, threshold: Threshold, rule: Rule) -> Judgement:
    alike = kept.conditions == condition
    if not alike.any():
        return Judgement(True, Why.FIRST, float("inf"))
    distances = np.linalg.norm(kept.embeddings - embedding, axis=1)
    nearest = float(distances[alike].min())
    if nearest <= SAME * float(np.linalg.norm(embedding)):
        return Judgement(False, Why.DUPLICATE, 0.0)
    typical = _typical(distances, alike, rule.rare_below)
    if typical is None:
        return Judgement(True, Why.RARE, float("inf"))
    novelty = nearest / typical
    if novelty < rule.duplicate_below:
        return Judgement(False, Why.DUPLICATE, novelty)
    if np.count_nonzero(alike) < rule.rare_below:
        return Judgement(True, Why.RARE, novelty)
    if novelty < threshold.value:
        return Judgement(False, Why.FAMILIAR, novelty)
    return Judgement(True, Why.NOVEL, novelty)


def _typical(distances: NDArray[np.floating], alike: NDArray[np.bool_], enough: int) -> float | None:
    """The median distance to kept samples of the same condition, else of any, else nothing to go by yet."""
    if np.count_nonzero(alike) >= enough:
        return float(np.median(distances[alike]))
    if len(distances) >= enough:
        return float(np.median(distances))
    return None
