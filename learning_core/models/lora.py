"""Low-rank adapters on a frozen model: what a device trains and what a fleet shares.

W x + alpha / r * B (A x), Hu et al. 2021 (arXiv:2106.09685), with A random, frozen and the same for everyone, so that
averaging B over devices is exact: FFA-LoRA, Sun et al. 2024 (arXiv:2403.12313). The label rows of conditions the base
does not know are part of the adapter: without them the low-rank part alone cannot tell new classes apart.
Our own thirty lines instead of peft, which takes seconds and hundreds of MB to import in a learner that lives briefly.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of, linear_shapes
from learning_core.models.weights import as_array, as_tensor, read, weights_of, write_exact
from learning_core.params import Array, Params, check_exact

LABEL_ROWS = "label_rows"
Layers = Mapping[str, tuple[int, int]]  # linear layers by path, with their (out, in) sizes


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank change. lora_A: [r, in], frozen; lora_B: [out, r], from zero."""

    def __init__(self, base: nn.Linear, lora_a: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(base.bias.detach(), requires_grad=False)
        self.lora_A = nn.Parameter(lora_a, requires_grad=False)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, len(lora_a)))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.merged(), self.bias)

    def merged(self) -> Tensor:
        """The weight with the change folded in: cheaper than a detour when batches are larger than layers."""
        return torch.addmm(self.weight, self.lora_B, self.lora_A, alpha=self.scale)


class AdaptedEmbedding(nn.Module):
    """A frozen table of label vectors whose rows for new conditions take a trainable change. rows: [len(new), d]."""

    def __init__(self, base: nn.Embedding, new_conditions: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.rows = nn.Parameter(torch.zeros(len(new_conditions), base.embedding_dim))
        self.new_conditions = torch.tensor(new_conditions, dtype=torch.long)

    def forward(self, y: Tensor) -> Tensor:
        return F.embedding(y, self.merged())

    def merged(self) -> Tensor:
        return self.weight.index_add(0, self.new_conditions, self.rows)


def new_conditions(config: FlowImageConfig, known_conditions: Collection[int]) -> list[int]:
    return [condition for condition in range(config.num_conditions) if condition not in known_conditions]


def adapter_shapes(config: FlowImageConfig, rank: int, known_conditions: Collection[int]) -> dict[str, tuple[int, ...]]:
    """What is trained and federated: every B factor, and label rows where there are new conditions."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{path}.lora_B": (out, rank) for path, (out, _) in linear_shapes(config).items()
    }
    if unknown := new_conditions(config, known_conditions):
        shapes[LABEL_ROWS] = (len(unknown), config.width)
    return shapes


def start_factors(config: FlowImageConfig, rank: int, seed: int) -> dict[str, Array]:
    """The frozen A factors of a release of the flow model."""
    return random_factors(linear_shapes(config), rank, seed)


def random_factors(layers: Layers, rank: int, seed: int) -> dict[str, Array]:
    """A factors for linear layers, [r, in] each."""
    rng = np.random.default_rng(seed)
    return {f"{path}.lora_A": random_factor(rng, rank, size) for path, (_, size) in layers.items()}


def random_factor(rng: np.random.Generator, rank: int, size: int) -> Array:
    """One A, [r, in], uniform within 1 / sqrt(in) as in the reference implementation of LoRA."""
    return rng.uniform(-1.0, 1.0, (rank, size)).astype(np.float32) / np.float32(np.sqrt(size))


def attach(model: nn.Module, layers: Layers, start: Params, alpha: float) -> None:
    """Freeze a model and put an adapter that changes nothing yet on each of its linear layers, in place.

    Raises Malformed when the factors do not fit; then nothing has changed.
    """
    rank = len(next(iter(start.values()), ()))
    check_exact(start, {f"{path}.lora_A": (rank, size) for path, (_, size) in layers.items()}, "factors")
    model.requires_grad_(False)
    for path in layers:
        parent, _, leaf = path.rpartition(".")
        base = model.get_submodule(path)
        if not isinstance(base, nn.Linear):
            raise TypeError(f"{path} is not a linear layer")
        adapted = AdaptedLinear(base, as_tensor(start[f"{path}.lora_A"]), alpha / rank)
        setattr(model.get_submodule(parent), leaf, adapted)


def build_student(
    config: FlowImageConfig, weights: Params, start: Params, alpha: float, known_conditions: Collection[int]
) -> FlowImage:
    """A frozen base with adapters that change nothing yet. Raises Malformed when weights or factors do not fit."""
    model = flow_image_of(config, weights)
    attach(model, linear_shapes(config), start, alpha)
    if unknown := new_conditions(config, known_conditions):
        if not isinstance(model.label, nn.Embedding):
            raise TypeError("the label table already carries an adapter")
        model.label = AdaptedEmbedding(model.label, unknown)
    return model


def adapter_weights(model: FlowImage) -> dict[str, nn.Parameter]:
    """The trainable tensors themselves, under their federated names and in a fixed order."""
    found = attached(model, linear_shapes(model.config))
    if isinstance(model.label, AdaptedEmbedding):
        found[LABEL_ROWS] = model.label.rows
    return found


def attached(model: nn.Module, layers: Layers) -> dict[str, nn.Parameter]:
    """The B factors on the given layers, themselves, in the layers' order."""
    found: dict[str, nn.Parameter] = {}
    for path in layers:
        module = model.get_submodule(path)
        if not isinstance(module, AdaptedLinear):
            raise TypeError(f"{path} has no adapter; attach one first")
        found[f"{path}.lora_B"] = module.lora_B
    return found


def read_adapter(model: FlowImage) -> dict[str, Array]:
    return read(adapter_weights(model))


def write_adapter(model: FlowImage, adapter: Params) -> None:
    """Inverse of `read_adapter`. Raises Malformed when names or shapes differ; then nothing has changed."""
    write_exact(adapter_weights(model), adapter)


def merge(model: nn.Module) -> dict[str, Array]:
    """Weights of a plain model that does what base and adapter do together, by `state_dict` name."""
    merged = frozen_weights(model)
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, AdaptedLinear | AdaptedEmbedding):
                merged[f"{path}.weight"] = as_array(module.merged())
    return merged


def frozen_base(model: FlowImage) -> FlowImage:
    """The model under the adapters, as one of its own."""
    return flow_image_of(model.config, frozen_weights(model))


def frozen_weights(model: nn.Module) -> dict[str, Array]:
    """Weights of the base under the adapters, by `state_dict` name."""
    adapted = [path for path, module in model.named_modules() if isinstance(module, AdaptedLinear | AdaptedEmbedding)]
    own = {f"{path}.{leaf}" for path in adapted for leaf in ("lora_A", "lora_B", "rows")}
    return {name: value for name, value in weights_of(model).items() if name not in own}
