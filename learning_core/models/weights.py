"""A module's weights as named arrays, and back, with nothing missing and nothing left over."""

import numpy as np
import torch
from torch import Tensor, nn

from learning_core.errors import Malformed
from learning_core.params import Array, Params, shapes_of


def as_tensor(value: Array) -> Tensor:
    """A float32 tensor with memory of its own: arrays that were read from a file may not be written to."""
    return torch.from_numpy(np.array(value, np.float32, order="C"))


def as_array(value: Tensor) -> Array:
    return np.array(value.detach().numpy(), np.float32)


def weights_of(module: nn.Module) -> dict[str, Array]:
    """Everything the module would save, by its `state_dict` name, as copies."""
    return {name: as_array(value) for name, value in module.state_dict().items()}


def load_weights(module: nn.Module, weights: Params) -> None:
    """Inverse of `weights_of`. Raises Malformed when names or shapes differ; then nothing has changed."""
    present = module.state_dict()
    if {name: tuple(value.shape) for name, value in present.items()} != shapes_of(weights):
        odd = sorted(name for name in present.keys() | weights.keys() if not _fits(name, present, weights))
        raise Malformed(f"these weights belong to another model: they differ at {', '.join(odd[:4])}")
    with torch.no_grad():
        for name, value in present.items():
            value.copy_(as_tensor(weights[name]))


def _fits(name: str, present: dict[str, Tensor], weights: Params) -> bool:
    return name in present and name in weights and tuple(present[name].shape) == tuple(weights[name].shape)
