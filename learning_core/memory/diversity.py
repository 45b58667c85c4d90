"""Are outputs, or what a memory keeps, becoming all alike? The effective number of different ones, and whether it fell.

The Vendi score (Friedman and Dieng 2023, arXiv:2210.02410): the exponential of the entropy of a similarity matrix's
eigenvalues. One for copies of one thing, N for N that have nothing in common.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.memory.kernel import rbf
from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Diversity:
    """Effective numbers of different ones, 1..N, in equally large groups; `p_value`: of a fall as large by chance."""

    score: float
    reference: float
    p_value: float
    fell: bool


def vendi(similarity: NDArray[np.float64]) -> float:
    """Effective number of different things. similarity: [N, N], positive semi-definite, diagonal 1; 0 of none."""
    if not len(similarity):
        return 0.0
    shares = np.linalg.eigvalsh(similarity / len(similarity))
    shares = shares[shares > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def compare(
    reference: Array, current: Array, rng: np.random.Generator, level: float = 0.01, permutations: int = 199
) -> Diversity:
    """Whether diversity fell from `reference` [N, d] to `current` [M, d], against random partings of both groups.

    The larger group is thinned at random to the size of the smaller, since the score grows with the number.
    A group that moved but is as varied as before did not fall. Cost: (permutations + 1) eigenproblems of min(N, M).
    """
    num = min(len(reference), len(current))
    if num < 2:
        raise ValueError("diversity needs two embeddings on either side")
    if (permutations + 1) * level < 1:
        raise ValueError(f"{permutations} permutations cannot show a level of {level}")
    thinned = [group[np.sort(rng.permutation(len(group))[:num])] for group in (reference, current)]
    similarity = rbf(np.concatenate(thinned))
    before, after = vendi(similarity[:num, :num]), vendi(similarity[num:, num:])
    falls = [after / before]
    for _ in range(permutations):
        order = rng.permutation(2 * num)
        old, new = order[:num], order[num:]
        falls.append(vendi(similarity[np.ix_(new, new)]) / vendi(similarity[np.ix_(old, old)]))
    p_value = float(np.mean(np.array(falls) <= falls[0] + 1e-12))
    return Diversity(after, before, p_value, p_value <= level)
