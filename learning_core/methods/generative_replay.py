"""Rehearse what was never stored: the previous model draws it."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from learning_core.errors import ConfigError

Generate = Callable[[Tensor, Generator], Tensor]
"""Samples [N, ...] of the previous model for the conditions [N], from the generator's randomness."""


@torch.no_grad()
def dream(generate: Generate, known: Sequence[int], count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """`count` samples of old conditions, drawn uniformly, and those conditions [count] int64.

    Deep generative replay, Shin et al. 2017 (arXiv:1705.08690). What the previous model has wrong is taught on, so
    errors add up over tasks; `distillation.rehearse` keeps a velocity field without drawing a whole sample.
    Raises ConfigError when nothing is known yet.
    """
    if not known:
        raise ConfigError("there is nothing to rehearse yet: name at least one condition that the model knows")
    conditions = torch.tensor(known)[torch.randint(len(known), (count,), generator=generator)]
    return generate(conditions, generator), conditions
