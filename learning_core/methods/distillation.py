"""Keep what the base knows without storing its data: ask it about old conditions on whatever images are at hand."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def rehearse(
    frozen: Velocity, x_t: Tensor, t: Tensor, known: Sequence[int], generator: Generator
) -> tuple[Tensor, Tensor]:
    """Old labels [B] for noised images x_t: [B, C, H, W] of anything at times t: [B], and the velocity to keep there.

    Learning without forgetting, Li and Hoiem 2016 (arXiv:1606.09282), for a velocity field. Noised images of new
    classes lie close enough to the paths of the old ones to pin the old field, so no old image has to be stored.
    """
    labels = torch.tensor(known)[torch.randint(len(known), (len(x_t),), generator=generator)]
    return labels, frozen(x_t, t, labels)
