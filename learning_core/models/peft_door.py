"""The one door to peft: low-rank adapters on the linear layers of any module, under our names, with exact key checks.

W x + scale * B (A x), Hu et al. 2021 (arXiv:2106.09685). Every A is drawn from a seed, so that all nodes start from the
same factors: averaging them over different random starts is close to useless. `Learned.B` trains B alone, which makes
averages exact (FFA-LoRA, Sun et al. 2024, arXiv:2403.12313). A module may carry several adapters, one shared and one
personal, whose changes add up. peft itself accepts weights under wrong names without a word; here they are refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from learning_core.errors import Malformed
from learning_core.models.lora import random_factor
from learning_core.models.weights import read, write, write_exact
from learning_core.params import Array, Params


class Learned(Enum):
    """Which factors are trained and travel: both, or B on a frozen A (FFA-LoRA)."""

    BOTH = ("lora_A", "lora_B")
    B = ("lora_B",)


@dataclass(frozen=True, slots=True)
class Plan:
    """One adapter. `layers`: paths of linear layers; `ranks`: of those whose rank is not `rank`; `scale`: alpha / r."""

    layers: Sequence[str]
    rank: int = 8
    scale: float = 2.0
    learned: Learned = Learned.BOTH
    ranks: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Adapted:
    """A module with adapters on it. `leaves`: the parameters that are learned, by adapter, under our names.

    "<path>.lora_A" is [r, in], "<path>.lora_B" [out, r]. The module is changed in place and keeps its class.
    """

    module: nn.Module
    leaves: Mapping[str, Mapping[str, nn.Parameter]]


def factor_shapes(module: nn.Module, plan: Plan) -> dict[str, tuple[int, int]]:
    """The shapes of both factors of every layer. Raises Malformed when a path is no linear layer."""
    shapes: dict[str, tuple[int, int]] = {}
    modules = dict(module.named_modules())
    for path in plan.layers:
        layer = modules.get(path)
        base = getattr(layer, "base_layer", layer)
        if not isinstance(base, nn.Linear):
            raise Malformed(f"{path} is no linear layer of this model, so it can carry no adapter")
        rank = plan.ranks.get(path, plan.rank)
        shapes |= {f"{path}.lora_A": (rank, base.in_features), f"{path}.lora_B": (base.out_features, rank)}
    return shapes


def start_factors(module: nn.Module, plan: Plan) -> dict[str, Array]:
    """A, uniform within 1 / sqrt(in) and the same wherever the seed is, and B = 0: an adapter that changes nothing."""
    rng = np.random.default_rng(plan.seed)
    return {
        name: random_factor(rng, *shape) if name.endswith("lora_A") else np.zeros(shape, np.float32)
        for name, shape in factor_shapes(module, plan).items()
    }


def adapted(module: nn.Module, plans: Mapping[str, Plan]) -> Adapted:
    """Put adapters on a module, all at work and all trainable, everything else frozen. Raises Malformed."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  (seconds and hundreds of MB to import)

    starts = {name: start_factors(module, plan) for name, plan in plans.items()}
    module.requires_grad_(False)
    for name, plan in plans.items():
        ranks = {path: plan.ranks.get(path, plan.rank) for path in plan.layers}
        config = LoraConfig(
            r=plan.rank,
            lora_alpha=plan.scale * plan.rank,
            target_modules="|".join(map(re.escape, plan.layers)),  # a list would also match ends of longer paths
            rank_pattern={f"^{re.escape(path)}$": rank for path, rank in ranks.items()},
            alpha_pattern={f"^{re.escape(path)}$": plan.scale * rank for path, rank in ranks.items()},
        )
        with torch.random.fork_rng(devices=[]):  # peft draws factors of its own, which are replaced below
            inject_adapter_in_model(config, module, name)
        del module.peft_config  # a note peft leaves for itself; it warns when it meets it again
    found = {name: _factors(module, name, plan) for name, plan in plans.items()}
    for name, factors in found.items():
        write(factors, starts[name])
    leaves = {
        name: {key: value for key, value in factors.items() if key.endswith(plans[name].learned.value)}
        for name, factors in found.items()
    }
    both = Adapted(module, leaves)
    activate(both, tuple(plans), trained=tuple(plans))
    return both


def activate(both: Adapted, working: Sequence[str], trained: Iterable[str] = ()) -> None:
    """Let these adapters, and only these, change the output; of them only `trained` ones take gradients."""
    if unknown := {*working, *trained} - both.leaves.keys():
        raise Malformed(f"this module has no adapter named {', '.join(sorted(unknown))}")
    layers: list[Any] = [layer for layer in both.module.modules() if hasattr(layer, "base_layer")]
    for layer in layers:  # a Hugging Face model has a set_adapter of its own, for adapters it was told of
        layer.set_adapter([name for name in working if name in layer.lora_A])
        layer.lora_A.requires_grad_(False)
        layer.lora_B.requires_grad_(False)
    for name in trained:
        for leaf in both.leaves[name].values():
            leaf.requires_grad_(True)


def read_adapter(both: Adapted, name: str) -> dict[str, Array]:
    return read(both.leaves[name])


def write_adapter(both: Adapted, name: str, adapter: Params) -> None:
    """Inverse of `read_adapter`, quick enough for a loop. Raises Malformed on other names or shapes, changing none."""
    write_exact(both.leaves[name], adapter)


def resized(factors: Params, rank: int) -> dict[str, Array]:
    """The same change in factors of a larger rank, filled up with zeros. Raises ValueError if the rank is smaller."""
    grown = {}
    for name, value in factors.items():
        missing = rank - value.shape[_rank_axis(name)]
        if missing < 0:
            raise ValueError(f"{name} has rank {rank - missing}, which does not fit in {rank}")
        grown[name] = np.pad(value, [(0, missing), (0, 0)] if _rank_axis(name) == 0 else [(0, 0), (0, missing)])
    return grown


def composed(parts: Sequence[tuple[Params, float]], scale: float) -> dict[str, Array]:
    """One pair of factors for each layer that does what all parts together do, for a graph that scales by `scale`.

    Each part is (both factors of its layers, its own scale): the A are stacked, the B set side by side, [B_s, B_p].
    """
    names = dict.fromkeys(name for factors, _ in parts for name in factors)

    def joined(name: str) -> Array:
        axis = _rank_axis(name)
        having = [(factors[name], own / scale if axis else 1.0) for factors, own in parts if name in factors]
        return np.concatenate([value * np.float32(factor) for value, factor in having], axis=axis)

    return {name: joined(name) for name in names}


def _rank_axis(name: str) -> int:
    return 0 if name.endswith("lora_A") else 1


def _factors(module: nn.Module, adapter: str, plan: Plan) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for path in plan.layers:
        layer: Any = module.get_submodule(path)
        found |= {f"{path}.lora_A": layer.lora_A[adapter].weight, f"{path}.lora_B": layer.lora_B[adapter].weight}
    return found
