"""Rehearse a class from its mean and main directions instead of from stored samples.

k vectors describe how a class varies better than k of its samples do: each class is a Gaussian around its mean, with
the variance of its k - 1 principal directions and an even rest (probabilistic principal components, Tipping and Bishop
1999). Drawing from it is generative replay (Shin et al. 2017, arXiv:1705.08690) with a generator fitted in closed form.
The samples of the current task are rehearsed in the same way: a model that sees real samples of the new classes and
drawn ones of the old soon tells the two kinds apart instead of the classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Condensed:
    """A class in k vectors: Gaussian with this mean [D] and covariance directions^T directions + rest^2 I."""

    mean: Tensor
    directions: Tensor  # [k - 1, D]
    rest: float  # standard deviation in every direction beside what `directions` add

    @property
    def num_bytes(self) -> int:
        return 4 * (self.mean.numel() + self.directions.numel() + 1)


def condense(samples: Tensor, vectors: int) -> Condensed:
    """The likeliest such Gaussian for samples [N, D] of one class, N >= 1. Tipping and Bishop 1999, eq. 3.7 and 3.8.

    Fewer samples than vectors leave the directions that are not needed at zero.
    """
    if len(samples) == 0 or vectors < 1:
        raise ValueError(f"cannot condense {len(samples)} samples into {vectors} vectors")
    mean = samples.mean(dim=0)
    _, lengths, axes = torch.linalg.svd(samples - mean, full_matrices=False)
    variances = lengths.square() / len(samples)
    kept = min(vectors - 1, len(variances))
    rest = variances[kept:].sum() / max(1, samples.shape[1] - kept)
    directions = torch.zeros(vectors - 1, samples.shape[1])
    directions[:kept] = (variances[:kept] - rest).clamp_min(0).sqrt()[:, None] * axes[:kept]
    return Condensed(mean, directions, float(rest.sqrt()))


def draw(classes: Sequence[Condensed], num: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """`num` samples [num, D] of classes chosen evenly, and which they are of: [num] indices into `classes`.

    The rest is added in every direction, along the main ones too: a little wider than the class was.
    """
    chosen = torch.randint(len(classes), (num,), generator=generator)
    means, directions = (torch.stack(part) for part in zip(*((c.mean, c.directions) for c in classes), strict=True))
    rests = torch.tensor([each.rest for each in classes])
    along = torch.randn(num, 1, directions.shape[1], generator=generator)
    aside = torch.randn(num, means.shape[1], generator=generator)
    return means[chosen] + (along @ directions[chosen]).squeeze(1) + rests[chosen, None] * aside, chosen
