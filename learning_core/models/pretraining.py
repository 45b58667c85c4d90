"""Teach all weights of a transformer: from scratch with a high learning rate, or a warm start with a lower one."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Generator, Tensor, nn

from learning_core.models.flow_image import FlowImage, flow_loss, linear_shapes
from learning_core.models.muon import Muon
from learning_core.models.weights import as_tensor
from learning_core.samples import Batch

WEIGHT_DECAY = 1e-2
ADAM_SHARE = 0.4  # AdamW, for what is not a matrix inside the transformer, learns at this share of Muon's rate
MAX_GRAD_NORM = 1.0
AVERAGE_DECAY = 0.99
LAST_RATE = 0.05  # share of the learning rate that is left at the end


def pretrain(
    model: FlowImage,
    samples: Batch,
    steps: int,
    learning_rate: float,
    seed: int,
    batch: int = 64,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Flow matching on samples for `steps`. `on_step` gets (step, loss).

    From scratch a learning rate of 2e-2 is right for widths of 64 to 128; a warm start wants about a quarter of it.
    """
    if len(samples) == 0:
        raise ValueError("there is nothing to learn from: the batch of samples is empty")
    images, labels = as_tensor(samples.features), torch.tensor(samples.conditions)

    def loss(generator: Generator) -> Tensor:
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        return flow_loss(model, images[chosen], labels[chosen], generator)

    train_all(model, linear_shapes(model.config), loss, steps, learning_rate, seed, on_step)


def train_all(
    model: nn.Module,
    layers: Iterable[str],
    loss: Callable[[Generator], Tensor],
    steps: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Move all weights down a loss that draws its batch itself, and leave their moving average in the model.

    `layers`: paths of the linear layers inside the transformer, whose matrices Muon moves.
    """
    generator = Generator().manual_seed(seed)
    weights = list(model.parameters())
    average = [weight.detach().clone() for weight in weights]
    inner = [model.get_parameter(f"{path}.weight") for path in layers]
    muon = Muon(inner)
    rest = [weight for weight in weights if not any(weight is matrix for matrix in inner)]
    adam = torch.optim.AdamW(rest, learning_rate, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True)
    model.train()
    for step in range(steps):
        rate = learning_rate * schedule(step, steps)
        value = loss(generator)
        model.zero_grad()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM, foreach=True)
        for group in adam.param_groups:
            group["lr"] = ADAM_SHARE * rate
        adam.step()
        muon.step(rate)
        follow(average, weights, min(AVERAGE_DECAY, (1 + step) / (10 + step)))
        if on_step is not None:
            on_step(step, value.item())
    model.eval()
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: up in a straight line over the first fifth (at most 100 steps), down by a cosine."""
    rising = min(100, steps // 5)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def follow(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """Move each average a little towards its weight, in place."""
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight, 1 - decay)
