"""How a device fits a language model: new text is learned, and on text of its own the frozen base is what is kept.

Nothing old is stored: before it learns, the base writes a little, and its answers there are distilled while the adapter
changes. Generative replay, Shin et al. 2017 (arXiv:1705.08690), with the base's answers in place of the bytes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor

from learning_core.methods.distillation import kl_to_frozen
from learning_core.models.language import Language, draw_windows, generate, language_loss
from learning_core.models.language_lora import adapter_weights, frozen_base, write_adapter
from learning_core.training.fitting import Budget, FitState, Loss, Recipe, fit, step_generator

# Tiny Shakespeare, then UPPER CASE; bits per character lost / won, one seed. This: .08 / 4.1. Naive: 3.6 / 4.1. 2 KB of
# old text distilled at a third of the batch and weight 1: .34 / 4.1. Rank 32: .09 / 4.2. On a weaker base, weight 1 and
# rate 1e-2: a third of the batch from 64 windows .16 / 3.4, half from 256 .13 / 3.4, that at twice the rate .19 / 3.4.
RANK, ALPHA = 16, 32.0
RECIPE = Recipe(steps=120, batch=16, learning_rate=7e-3)


@dataclass(frozen=True, slots=True)
class OwnWriting:
    """How the base is kept: a share of each batch are windows it wrote itself, of which there are `windows`.

    `weight`: of the distance from its answers there, in nats a byte, against the surprise at the new text.
    """

    windows: int = 256
    share: float = 0.5
    weight: float = 2.0


def fit_text(
    model: Language, text: Tensor, recipe: Recipe, state: FitState, steps: int, rehearsal: OwnWriting = OwnWriting()
) -> tuple[FitState, list[float]]:
    """Advance by at most `steps` on a text, [N] ids of more than one context.

    The model is left holding the new adapter. Raises Malformed when the state belongs to another model.
    """
    write_adapter(model, state.adapter)
    base = frozen_base(model)
    written = own_writing(base, text, rehearsal.windows, step_generator(recipe.seed, recipe.steps))
    kept = round(rehearsal.share * recipe.batch)
    loss = lesson(model, base, text, written, recipe.batch - kept, kept, rehearsal.weight)
    return fit(adapter_weights(model), loss, recipe, state, Budget(steps))


def own_writing(base: Language, text: Tensor, windows: int, generator: Generator) -> Tensor:
    """What the base makes of single bytes of the new text, [windows, context + 1] ids.

    Begun so, it also writes from where the new text may lead it: a tenth less is forgotten than begun by line ends.
    """
    return generate(base, draw_windows(text, windows, 1, generator), base.context, 1.0, generator)


def lesson(
    model: Language, base: Language, text: Tensor, rehearsed: Tensor, learned: int, kept: int, weight: float = 1.0
) -> Loss:
    """Cross-entropy on `learned` windows of a text, and the distance from the base's answers on `kept` rehearsed ones.

    Both go through the model at once. rehearsed: [M, context + 1] ids, of which the base is asked.
    """
    length = model.context + 1

    def loss(generator: Generator) -> Tensor:
        new = draw_windows(text, learned, length, generator)
        if kept == 0:
            return language_loss(model, new)
        old = rehearsed[torch.randint(len(rehearsed), (kept,), generator=generator)]
        logits = model(torch.cat((new, old))[:, :-1])
        with torch.no_grad():
            answers = base(old[:, :-1])
        surprise = F.cross_entropy(logits[:learned].flatten(0, 1), new[:, 1:].flatten())
        return surprise + weight * kl_to_frozen(logits[learned:], answers)

    return loss
