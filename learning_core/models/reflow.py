"""Straighten a flow until one step is enough: learn again from where the flow itself carries each noise.

Reflow, Liu et al. 2022, section 2.2 (arXiv:2209.03003). Noise and image of a pair belong together, so paths no longer
cross and a straight line is the answer everywhere. Guidance is in the images of the pairs: the straightened model is
served without, which halves the cost of a step once more.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor

from learning_core.models.flow_image import FlowImage, FlowPoints, generate_in_pieces, linear_shapes, points_loss
from learning_core.models.pretraining import train_all

START_SHARE = 0.5  # of a batch, at the very start of the path: that is where a single step is taken
START = 0.02


class Pairs(NamedTuple):
    """Noise and the images a teacher makes of it. noise, images: [N, C, H, W]; conditions: [N] int64."""

    noise: Tensor
    images: Tensor
    conditions: Tensor


def teacher_pairs(teacher: FlowImage, conditions: Tensor, steps: int, guidance: float, generator: Generator) -> Pairs:
    """One pair for each of the conditions [N], by Euler's method; images are kept within -1..1."""
    config = teacher.config
    noise = torch.randn((len(conditions), config.channels, config.side, config.side), generator=generator)
    return Pairs(noise, generate_in_pieces(teacher, noise, conditions, steps, guidance).clamp(-1, 1), conditions)


def straight_points(pairs: Pairs, generator: Generator) -> FlowPoints:
    """Places on the straight lines from each noise to its image, half of them at the start of the line."""
    rows = len(pairs.conditions)
    t = torch.rand(rows, generator=generator)
    t = torch.where(torch.rand(rows, generator=generator) < START_SHARE, START * t, t)
    x_t = torch.lerp(pairs.noise, pairs.images, t[:, None, None, None])
    return FlowPoints(x_t, t, pairs.conditions, pairs.images - pairs.noise)


def straighten(
    model: FlowImage,
    pairs: Pairs,
    steps: int,
    learning_rate: float,
    seed: int,
    batch: int = 64,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a copy of the teacher on its own pairs, for generation in 1, 2 or 4 steps at guidance 1."""
    if len(pairs.conditions) == 0:
        raise ValueError("there is nothing to learn from: no pairs were given")

    def loss(generator: Generator) -> Tensor:
        chosen = torch.randint(len(pairs.conditions), (batch,), generator=generator)
        return points_loss(model, straight_points(Pairs(*(part[chosen] for part in pairs)), generator))

    train_all(model, linear_shapes(model.config), loss, steps, learning_rate, seed, on_step)


@torch.no_grad()
def curvature(model: FlowImage, noise: Tensor, conditions: Tensor, steps: int = 10) -> float:
    """How far velocities along the paths are from the whole way, 0 for straight lines. Liu et al. 2022, eq. 5.

    Mean over paths, times and pixels of the squared difference; noise: [N, C, H, W], conditions: [N].
    """
    x, velocities = noise, []
    for step in range(steps):
        velocities.append(model(x, torch.full((len(x),), step / steps), conditions))
        x = x + velocities[-1] / steps
    return float(torch.stack([F.mse_loss(velocity, x - noise) for velocity in velocities]).mean())
