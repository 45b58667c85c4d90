"""A module's weights as named arrays, and back, with nothing missing and nothing left over."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from learning_core.errors import Malformed
from learning_core.params import Array, Params, check_exact, shapes_of

Module = TypeVar("Module", bound=nn.Module)


def as_tensor(value: Array) -> Tensor:
    """A float32 tensor with memory of its own: arrays that were read from a file may not be written to."""
    return torch.from_numpy(np.array(value, np.float32, order="C"))


def as_array(value: Tensor) -> Array:
    return np.array(value.detach().numpy(), np.float32)


def weights_of(module: nn.Module) -> dict[str, Array]:
    """Everything the module would save, by its `state_dict` name, as copies."""
    return read(module.state_dict())


def load_weights(module: nn.Module, weights: Params) -> None:
    """Inverse of `weights_of`. Raises Malformed when names or shapes differ; then nothing has changed."""
    present = module.state_dict()
    if {name: tuple(value.shape) for name, value in present.items()} != shapes_of(weights):
        odd = sorted(name for name in present.keys() | weights.keys() if not _fits(name, present, weights))
        raise Malformed(f"these weights belong to another model: they differ at {', '.join(odd[:4])}")
    write(present, weights)


def read(leaves: Mapping[str, Tensor]) -> dict[str, Array]:
    """Named tensors as copies."""
    return {name: as_array(leaf) for name, leaf in leaves.items()}


@torch.no_grad()
def write(leaves: Mapping[str, Tensor], values: Params) -> None:
    """Put values into tensors of their names and shapes, in place; what there is no tensor for is left out."""
    for name, leaf in leaves.items():
        leaf.copy_(as_tensor(values[name]))


def write_exact(leaves: Mapping[str, Tensor], adapter: Params) -> None:
    """The same for an adapter. Raises Malformed when names or shapes differ; then nothing has changed."""
    check_exact(adapter, {name: tuple(leaf.shape) for name, leaf in leaves.items()}, "adapter")
    write(leaves, adapter)


def seeded(build: Callable[[], Module], seed: int) -> Module:
    """A module whose first weights are those of a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _fits(name: str, present: dict[str, Tensor], weights: Params) -> bool:
    return name in present and name in weights and tuple(present[name].shape) == tuple(weights[name].shape)
