"""Keep what the base knows without storing its data: ask it about what is at hand, and go on answering like it."""

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


def lwf(logits: Tensor, frozen_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """How far the answers to new samples have moved from the old model's: [B, C] each -> scalar, in nats.

    Learning without forgetting, Li and Hoiem 2016 (arXiv:1606.09282), less the old answers' own entropy, which
    no training changes; times temperature^2, which keeps its gradients as large as the labels' (arXiv:1503.02531).
    """
    return temperature**2 * kl_to_frozen(logits / temperature, frozen_logits / temperature)


def kl_to_frozen(logits: Tensor, frozen_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(frozen || model), averaged over positions, in nats a position. logits: [..., C], a language model's [B, T, V].

    mask: [...], true where a position counts (not padding). Zero where none does.
    """
    log_p, log_q = frozen_logits.detach().log_softmax(dim=-1), logits.log_softmax(dim=-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    counted = divergence if mask is None else divergence[mask]
    return counted.sum() / max(1, counted.numel())
