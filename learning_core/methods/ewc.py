"""Hold each weight near where it was when a task ended, as firmly as that task needs it.

Elastic weight consolidation, Kirkpatrick et al. 2017 (arXiv:1612.00796): one anchor a task. Its online form, Schwarz et
al. 2018 (arXiv:1805.06370): one anchor for all of them. Take the Fisher information AFTER a task, since a new adapter
(B = 0) has exactly none in A, and normalise it, since it all but vanishes where a task has been learned well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from learning_core.errors import ConfigError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the weights were when a task ended, and how much each one mattered."""

    params: Tensors
    fisher: Tensors  # diagonal, shapes of params, >= 0


def anchor_at(trained: Tensors, fisher: Tensors) -> Anchor:
    """The weights as they are now, copied, with what `fisher_of_*` said of them, normalised."""
    return Anchor(_copied(trained), normalised(fisher))


def penalty(params: Tensors, anchors: Sequence[Anchor]) -> Tensor:
    """Half the Fisher-weighted squared distance, summed over all anchors: a scalar, to be weighted by lambda."""
    total = torch.zeros(())
    for anchor in anchors:
        for name, value in params.items():
            total = total + (anchor.fisher[name] * (value - anchor.params[name]).square()).sum() / 2
    return total


def merge(old: Anchor, new: Anchor, decay: float) -> Anchor:
    """One anchor for both tasks: held where the newer one ended, the older importance fading by `decay` in 0..1.

    Online EWC, Schwarz et al. 2018 (arXiv:1805.06370).
    """
    return Anchor(new.params, {name: decay * old.fisher[name] + value for name, value in new.fisher.items()})


def re_anchor(anchor: Anchor, params: Tensors, fisher: Tensors | None = None) -> Anchor:
    """The anchor after something other than training moved the weights: an aggregation, a merge, a re-factorisation.

    B A = (B R)(R^-1 A), so where both factors are trained, the old importance speaks of coordinates that are gone: give
    the Fisher taken anew. With A frozen and shared, B is unique and the new centre is enough (after a merge, zero).
    Raises ConfigError where a new Fisher is needed and missing.
    """
    if fisher is not None:
        return anchor_at(params, fisher)
    if any("lora_A" in name for name in params):
        raise ConfigError("both factors of this adapter are trained: take its Fisher information anew to re-anchor it")
    return Anchor(_copied(params), anchor.fisher)


def fisher_of_logits(logits: Iterable[Tensor], trained: Tensors, generator: Generator) -> dict[str, Tensor]:
    """Diagonal Fisher information of a classifier or language model, with labels SAMPLED from its own answer.

    logits: [..., C] of one example each, drawn lazily, so that only one graph lives at a time:
    `fisher_of_logits((model(x[None]) for x in inputs), trained, generator)`. The given labels would make it the
    empirical Fisher, which is another matrix: Kunstner et al. 2019 (arXiv:1905.12558).
    """

    def score(answer: Tensor) -> Tensor:
        rows = answer.flatten(end_dim=-2).log_softmax(dim=-1)
        return rows.gather(1, torch.multinomial(rows.detach().exp(), 1, generator=generator)).sum()

    return _mean_squared_gradient(map(score, logits), trained)


def fisher_of_outputs(outputs: Iterable[Tensor], trained: Tensors, generator: Generator) -> dict[str, Tensor]:
    """Diagonal Fisher information of a regression or velocity model: of a Gaussian of unit variance round its output.

    outputs: any shape, one example each, drawn lazily. That Fisher is the sum of the squared Jacobian's rows; a row of
    random signs gives it without bias in one backward pass (Hutchinson 1990).
    """

    def score(output: Tensor) -> Tensor:
        signs = torch.randint(2, output.shape, generator=generator) * 2 - 1
        return (signs * output).sum()

    return _mean_squared_gradient(map(score, outputs), trained)


def normalised(fisher: Tensors) -> dict[str, Tensor]:
    """Scaled to mean 1 over all weights, so that one lambda fits every task. All zeros stay zeros."""
    total, count = sum(float(value.sum()) for value in fisher.values()), sum(len(v.flatten()) for v in fisher.values())
    return {name: value * (count / total) if total > 0 else value.clone() for name, value in fisher.items()}


def _mean_squared_gradient(scores: Iterable[Tensor], trained: Tensors) -> dict[str, Tensor]:
    """One backward pass an example: no batching rule has to exist for the model, and memory stays that of one."""
    total = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in trained.items()}
    count = 0
    for score in scores:
        parts = torch.autograd.grad(score, list(trained.values()), allow_unused=True)
        for name, part in zip(trained, parts, strict=True):
            if part is not None:
                total[name] += part.square()
        count += 1
    return {name: value / max(1, count) for name, value in total.items()}


def _copied(params: Tensors) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in params.items()}
