"""Losses on stored samples: learn the new without letting it argue with the old."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from torch import Tensor


def der_plus_plus(logits: Tensor, stored_logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """What a rehearsed batch asks: the logits it had when it was stored, and its labels. Zero for an empty memory.

    Dark Experience Replay++, Buzzega et al. 2020 (arXiv:2004.07211): alpha * squared error + beta * cross
    entropy. logits, stored_logits: [B, C]; labels: [B] int64. The paper draws a batch for each term: call it twice,
    with beta or alpha 0. With alpha 0 and beta 1 it is plain experience replay.
    """
    if len(labels) == 0:
        return logits.sum()  # zero, and part of the graph
    return alpha * F.mse_loss(logits, stored_logits) + beta * F.cross_entropy(logits, labels)


def er_ace(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of NEW samples among the classes of their own batch: old classes are not pushed down for them.

    Asymmetric cross entropy, Caccia et al. 2022 (arXiv:2104.05025); rehearsed samples take the plain one.
    logits: [B, C]; labels: [B] int64. Zero for an empty batch.
    """
    if len(labels) == 0:
        return logits.sum()
    absent = torch.ones(logits.shape[1], dtype=torch.bool)
    absent[labels] = False
    return F.cross_entropy(logits.masked_fill(absent, -torch.inf), labels)
