"""How a device fits a flow model: new samples are learned, and the frozen base is asked what is to be kept."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from learning_core.methods.distillation import rehearse
from learning_core.models.flow_image import FlowImage, FlowPoints, flow_points, noised, points_loss
from learning_core.models.lora import LABEL_ROWS, adapter_weights, frozen_base, write_adapter
from learning_core.models.weights import as_tensor
from learning_core.samples import Batch
from learning_core.training.fitting import Budget, FitState, Loss, Recipe, fit

REHEARSAL_SHARE = (
    0.5  # of a batch: with half, a device's own candidate passes its golden set; with a quarter, only the fleet's mean
)
LABEL_ROW_BOOST = 3.0  # label rows start from nothing and go faster


def fit_flow(
    model: FlowImage, samples: Batch, known: Sequence[int], recipe: Recipe, state: FitState, steps: int
) -> tuple[FitState, list[float]]:
    """Advance by at most `steps`; `known` are the conditions the frozen base has learned.

    The model is left holding the new adapter. Raises Malformed when the state belongs to another model.
    """
    if len(samples) == 0:
        raise ValueError("there is nothing to learn from: the batch of samples is empty")
    write_adapter(model, state.adapter)
    loss = lesson(model, samples, known, recipe.batch)
    model.train()
    done = fit(adapter_weights(model), loss, recipe, state, Budget(steps), boosts={LABEL_ROWS: LABEL_ROW_BOOST})
    model.eval()
    return done


def lesson(model: FlowImage, samples: Batch, known: Sequence[int], batch: int) -> Loss:
    """A loss whose batch has a head that is to be learned and a tail that asks the frozen base what is to be kept.

    Both go through the model at once, which costs a third less than one after the other.
    """
    frozen = frozen_base(model) if known else None
    images, labels = as_tensor(samples.features), torch.tensor(samples.conditions)
    head = batch if frozen is None else batch - round(REHEARSAL_SHARE * batch)

    def loss(generator: Generator) -> Tensor:
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        x, y = images[chosen], labels[chosen]
        points = flow_points(x[:head], y[:head], model.config.null_condition, generator)
        if frozen is not None:
            x_t, t, _ = noised(x[head:], generator)
            old, velocity = rehearse(frozen, x_t, t, known, generator)
            keep = FlowPoints(x_t, t, old, velocity)
            points = FlowPoints(*(torch.cat(pair) for pair in zip(points, keep, strict=True)))
        return points_loss(model, points)

    return loss
