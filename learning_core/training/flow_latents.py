"""Fit a flow model to images that were noised before they left their device.

An image with noise of deviation s on it is, but for a factor, a latent of the flow: with T = 1 / (1 + s),
T (image + s noise) = T image + (1 - T) noise = x_T. All earlier points (t < T, more noise) can be made from it by
adding noise, and there the mean of the image given x_t, which is all that the velocity needs, can be learned without
bias: Daras, Dimakis, Daskalakis 2024 (arXiv:2404.10177), here for the straight flow. Of later points it says nothing:
what is finer than the noise is left to what the model knew.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor

from learning_core.methods.distillation import rehearse
from learning_core.models.flow_image import LABEL_DROPOUT, FlowImage, noised
from learning_core.models.lora import LABEL_ROWS, adapter_weights, frozen_base, write_adapter
from learning_core.models.weights import as_tensor
from learning_core.samples import Batch
from learning_core.training.fitting import Budget, FitState, Loss, Recipe, fit
from learning_core.training.flow_images import LABEL_ROW_BOOST, REHEARSAL_SHARE

LATEST = 0.95  # of T: at T itself the target's noise is without bound


def last_time(deviation: float) -> float:
    """T, the time 0..1 in the flow at which images with this much noise on them are."""
    return 1 / (1 + deviation)


def points_of_latents(
    images: Tensor, deviation: float, times: Tensor, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, velocity, weight) for images: [B, C, H, W] with noise on them, at times: [B] before T.

    The velocity is right on average, given x_t; the weight [B, 1, 1, 1] is 1 / (its variance, as far as noise made it).
    """
    t = times[:, None, None, None]
    fresh = torch.randn(images.shape, generator=generator)
    left = ((1 - t) ** 2 - (t * deviation) ** 2).sqrt()  # deviation of the noise still to be added
    x_t = t * images + left * fresh
    lever = t * deviation**2 / left
    image = images - lever * fresh
    return x_t, (image - x_t) / (1 - t), 1 / (1 + deviation**2 + lever**2)


def fit_flow_latents(
    model: FlowImage,
    latents: Batch,
    deviation: float,
    known: Sequence[int],
    recipe: Recipe,
    state: FitState,
    steps: int,
) -> tuple[FitState, list[float]]:
    """As `fit_flow`, for images with noise of this deviation on them. Raises ValueError without images or noise."""
    if len(latents) == 0 or not deviation > 0:
        raise ValueError("there is nothing to learn from, or no noise on it; raw images are learned by fit_flow")
    write_adapter(model, state.adapter)
    loss = latent_lesson(model, latents, deviation, frozen_base(model), tuple(known), recipe.batch)
    model.train()
    done = fit(adapter_weights(model), loss, recipe, state, Budget(steps), boosts={LABEL_ROWS: LABEL_ROW_BOOST})
    model.eval()
    return done


def latent_lesson(
    model: FlowImage, latents: Batch, deviation: float, base: FlowImage, known: Sequence[int], batch: int
) -> Loss:
    """Its head is learned before T; its tail asks the frozen base at all times, near its own images as far as we know.

    Both parts count by their share of the batch.
    """
    images, labels = as_tensor(latents.features), torch.tensor(latents.conditions)
    head = batch - round(REHEARSAL_SHARE * batch) if known else batch
    null = model.config.null_condition
    dropout = 0.0 if null in known else LABEL_DROPOUT
    latest = LATEST * last_time(deviation)

    def loss(generator: Generator) -> Tensor:
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        x, y = images[chosen], labels[chosen]
        times = latest * torch.rand(head, generator=generator)
        dropped = torch.rand(head, generator=generator) < dropout
        x_t, velocity, weight = points_of_latents(x[:head], deviation, times, generator)
        wrong = (model(x_t, times, torch.where(dropped, null, y[:head])) - velocity).square()
        total: Tensor = (weight * wrong).mean() * (1 + deviation**2)
        if not known:
            return total
        carrier, t, _ = noised(x[head:].clamp(-1, 1), generator)
        old, wanted = rehearse(base, carrier, t, list(known), generator)
        kept = F.mse_loss(model(carrier, t, old), wanted)
        share = head / batch
        return share * total + (1 - share) * kept

    return loss
