"""Do two groups of embeddings come from the same place? Maximum mean discrepancy against shuffled groups.

Gretton et al. 2012, "A kernel two-sample test" (JMLR 13), lemma 6 and section 5. For single numbers see
`page_hinkley` (the default: quickest at equal false alarms) and `adwin` (needs no size of change to look for).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.memory.kernel import rbf
from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Shift:
    """`discrepancy`: squared MMD, unbiased, near 0 for equal groups; `p_value`: the chance of one as large if equal."""

    discrepancy: float
    p_value: float
    drifted: bool


def shift(
    reference: Array, current: Array, rng: np.random.Generator, level: float = 0.005, permutations: int = 399
) -> Shift:
    """Compare embeddings [N, d] and [M, d], two of each at least, against `permutations` random partings of both.

    `level` is the chance of a false alarm in one test: with a test every 50 samples .005 is one in 10,000 samples.
    """
    num, rest = len(reference), len(current)
    if min(num, rest) < 2:
        raise ValueError(f"a discrepancy needs two embeddings on either side, not {num} and {rest}")
    if (permutations + 1) * level < 1:
        raise ValueError(f"{permutations} permutations cannot show a level of {level}")
    kernel = rbf(np.concatenate((reference, current)))
    np.fill_diagonal(kernel, 0)
    order = np.argsort(rng.random((permutations, num + rest)), axis=1)
    chosen = np.vstack((np.arange(num + rest) < num, order < num)).astype(np.float64)
    values = _discrepancies(kernel, chosen, num, rest)
    p_value = float(np.mean(values >= values[0] - 1e-12))  # the first is the real parting: one of those it is among
    return Shift(float(values[0]), p_value, p_value <= level)


def _discrepancies(
    kernel: NDArray[np.float64], chosen: NDArray[np.float64], num: int, rest: int
) -> NDArray[np.float64]:
    """Squared MMD of each parting. kernel: [N + M, N + M], diagonal 0; chosen: [P, N + M], 1 where in the first."""
    towards = chosen @ kernel
    within = np.sum(towards * chosen, axis=1)
    across = np.sum(towards, axis=1) - within
    others = np.sum(kernel) - 2 * across - within
    return np.asarray(within / (num * (num - 1)) + others / (rest * (rest - 1)) - 2 * across / (num * rest))
