"""An encoder cut in two: the trunk below, which no adapter touches, and the upper blocks, which are trained.

Both halves share their weights with the whole, so that an adapter trained on the upper half is on the whole model too.
"""

import copy
from typing import Any

from torch import Tensor, nn

from learning_core.errors import ConfigError


class _Latents(nn.Module):
    """Stands where the embeddings were: what comes in has passed the trunk."""

    def forward(self, inputs_embeds: Tensor, **_: object) -> Tensor:
        return inputs_embeds


def split(module: nn.Module, below: int) -> tuple[nn.Module, nn.Module]:
    """(trunk, upper): the first `below` blocks, called as the whole is, and the rest, called with `inputs_embeds`.

    For Hugging Face encoders of BERT's build, with `embeddings` and `encoder.layer`. Raises ConfigError for others.
    """
    blocks = _blocks(module)
    if not 0 < below < len(blocks):
        raise ConfigError(f"an encoder of {len(blocks)} blocks can be cut above 1 to {len(blocks) - 1}, not {below}")
    trunk, upper = _with_blocks(module, blocks[:below]), _with_blocks(module, blocks[below:])
    upper.embeddings = _Latents()
    return trunk, upper


def upper_projections(module: nn.Module, below: int) -> list[str]:
    """The paths of the query and value projections above the cut: where adapters do most for their size."""
    leaves = ("attention.self.query", "attention.self.value")
    return [f"encoder.layer.{block}.{leaf}" for block in range(below, len(_blocks(module))) for leaf in leaves]


def _blocks(module: nn.Module) -> nn.ModuleList:
    blocks = getattr(getattr(module, "encoder", None), "layer", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(module, "embeddings"):
        raise ConfigError("this encoder cannot be cut: it has no embeddings and encoder.layer as BERT has")
    return blocks


def _with_blocks(module: nn.Module, blocks: nn.ModuleList) -> nn.Module:
    whole: Any = _sharing(module)
    whole.encoder = _sharing(whole.encoder)
    whole.encoder.layer = blocks
    whole.pooler = None
    found: nn.Module = whole
    return found


def _sharing(module: nn.Module) -> nn.Module:
    """The same module with a list of parts of its own; the parts are the same ones."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin
