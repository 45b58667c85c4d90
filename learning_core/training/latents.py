"""Train the upper blocks on what the frozen trunk once made of the samples: its forward pass is not repeated.

Latent replay, Pellegrini et al. 2020 (arXiv:1912.01100), for sequences of any length. Exact up to float16, as long as
nothing below the cut is trained and no dropout acts there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from learning_core.models.encoder import batches
from learning_core.params import Array
from learning_core.training.fitting import Loss

Trunk = Callable[[Tensor, Tensor], Tensor]
"""(ids [B, T], mask [B, T]) -> what leaves the trunk, [B, T, d]."""
Batching = Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]
"""The indices of some samples -> what goes into a model, [B, T] or [B, T, d], and the mask [B, T]."""
Answer = Callable[[Tensor, Tensor], Tensor]
"""What came from `Batching` -> logits [B, K]."""
Draw = Callable[[Generator], NDArray[np.int64]]
"""One step's samples, by their index."""


@dataclass(frozen=True, slots=True)
class Latents:
    """`rows`: [sum of lengths, d] float16, all samples one after another; sample i is rows[starts[i]:starts[i + 1]]."""

    rows: NDArray[np.float16]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def num_bytes(self) -> int:
        return self.rows.nbytes + self.starts.nbytes

    def batch(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Some samples as float32 [B, T, d], with zeros after the end, and the mask [B, T]."""
        lengths = self.starts[chosen + 1] - self.starts[chosen]
        latents: Array = np.zeros((len(lengths), lengths.max(initial=0), self.rows.shape[1]), np.float32)
        for row, (index, length) in enumerate(zip(chosen, lengths, strict=True)):
            latents[row, :length] = self.rows[self.starts[index] : self.starts[index] + length]
        mask = np.arange(latents.shape[1]) < lengths[:, None]
        return torch.from_numpy(latents), torch.from_numpy(mask.astype(np.int64))


@torch.no_grad()
def cached(trunk: Trunk, tokens: Sequence[Sequence[int]], padding: int, piece: int = 64) -> Latents:
    """What the trunk makes of every sample, in their order. Raises ValueError when there are none."""
    if not tokens:
        raise ValueError("there is nothing to cache: no samples were given")
    found: dict[int, NDArray[np.float16]] = {}
    for chosen, ids, mask in batches(tokens, padding, piece):
        with np.errstate(over="ignore"):
            latents = trunk(ids, mask).numpy().astype(np.float16)
        if not np.isfinite(latents).all():
            raise ValueError("what leaves the trunk is beyond float16, 65,504, or no number: cut it elsewhere")
        found |= {index: row[: len(tokens[index])] for index, row in zip(chosen, latents, strict=True)}
    starts = np.cumsum([0, *(len(row) for row in tokens)])
    return Latents(np.concatenate([found[index] for index in range(len(tokens))]), starts.astype(np.int64))


def label_loss(batch: Batching, labels: NDArray[np.int64], answer: Answer, draw: Draw) -> Loss:
    """Cross-entropy on drawn samples; with `Latents.batch` they do not pass the trunk again."""

    def loss(generator: Generator) -> Tensor:
        chosen = draw(generator)
        return nn.functional.cross_entropy(answer(*batch(chosen)), torch.from_numpy(labels[chosen]))

    return loss


def expected_step_ratio(trunk_weights: int, upper_weights: int) -> float:
    """A step on latents over a step from the inputs, by the numbers of weights that every token meets in each half.

    Forward costs one pass; the gradient of adapters costs another through the upper half and none through the trunk.
    """
    return 2 * upper_weights / (trunk_weights + 2 * upper_weights)


def worth_caching_after(seconds_to_cache: float, step_seconds: float, latent_step_seconds: float) -> float:
    """The number of steps from which on caching has paid; infinite when a step becomes no cheaper."""
    saved = step_seconds - latent_step_seconds
    return seconds_to_cache / saved if saved > 0 else float("inf")
