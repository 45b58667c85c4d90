"""Learn a new task in directions that no earlier adapter reads."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def penalty(current: Mapping[str, Tensor], past: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Sum of |A_current A_past^T| over layers and earlier tasks: a scalar, zero where no row overlaps another.

    O-LoRA, Wang et al. 2023 (arXiv:2310.14152), in the L1 form of its code. Factors are [r, in] by layer, of any
    rank; the product is r x r, over the inputs, and not in x in. Give only the A factors: the trained ones of the task
    at hand and the frozen ones of those before.
    """
    total = torch.zeros(())
    for earlier in past:
        for name, rows in current.items():
            total = total + (rows @ earlier[name].detach().T).abs().sum()
    return total
