"""One step's gradient from which no single example can be told: DP-SGD, with per-sample gradients by Opacus' hooks.

Abadi et al. 2016, Alg. 1 (arXiv:1607.00133): every example enters a step by its own coin, its gradient is cut to
`clip_norm`, the sum is noised and divided by the size that was expected, not by the one that came. Neighbouring data
sets differ by one example added or removed; how many there are counts as known. A memory that is rehearsed is data too:
its examples are drawn by the same coins, and a penalty or a projection made from them is a further release, unbooked
here. Opacus is imported on first use only: it takes seconds and sets up logging.
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from learning_core.errors import ConfigError

Losses = Callable[[Tensor, Generator], Tensor]
"""The loss of each chosen example [b] (indices, int64), the i-th depending on the i-th example alone: not a mean."""
Sampler = Callable[[Any, list[Tensor], Tensor], dict[nn.Parameter, Tensor]]
"""(layer, its inputs, gradient of its output) -> per-sample gradients, [b, *shape] of each trained parameter."""
History = tuple[tuple[float, float, int], ...]
"""What was spent, as plain values to be saved with the model: (noise_multiplier, sample_rate, steps)."""

_BARELY_PRIVATE = 50.0  # an epsilon at which the numerical accountant gets slow, and soon fails
_DISAGREEMENT = 1e-3  # float32 sums in two orders differ by far less


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """How much one example may matter in one step. `sample_rate`: its chance to be drawn, 0..1."""

    clip_norm: float
    noise_multiplier: float
    sample_rate: float

    def __post_init__(self) -> None:
        if not (0 < self.clip_norm < math.inf and 0 <= self.noise_multiplier < math.inf and 0 < self.sample_rate <= 1):
            raise ConfigError(
                f"a private step needs clip_norm > 0, noise_multiplier >= 0 and 0 < sample_rate <= 1, not {self}"
            )


def private_gradient(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    losses: Losses,
    count: int,
    privacy: Privacy,
    *,
    secret: int,
    samplers: Mapping[type[nn.Module], Sampler] | None = None,
) -> Callable[[Generator], tuple[float, Tensor]]:
    """A `gradient` for `fit` on `count` examples: one step's noised mean [D], and no loss (nan), for that would tell.

    The step's generator may be known to others, so coins and noise come from it together with `secret`: drawn afresh
    for each fit, kept with its state, told to nobody. `samplers`: faster rules for layers that Opacus does not know.
    Every step is to be booked with `spend`, the empty ones too. Raises ConfigError, here or in a step, for a model in
    which one example could reach another's gradient or a trained weight would get none.
    """
    if count < 1:
        raise ConfigError("there is nothing to learn from: a private gradient needs at least one example")
    refuse_layers(model)
    leaves = list(trained.values())

    def gradient(generator: Generator) -> tuple[float, Tensor]:
        own = _mixed(generator, secret)
        chosen = poisson_batch(count, privacy.sample_rate, own)
        noise = torch.randn(sum(leaf.numel() for leaf in leaves), generator=own, dtype=torch.float64)
        total = privacy.noise_multiplier * privacy.clip_norm * noise
        if len(chosen):
            rows = per_sample_gradients(model, trained, lambda: losses(chosen, own), len(chosen), samplers or {})
            total = total + clipped_sum(rows, privacy.clip_norm)
        return math.nan, (total / (privacy.sample_rate * count)).float()

    return gradient


def poisson_batch(count: int, sample_rate: float, generator: Generator) -> Tensor:
    """Indices [b] of those of `count` examples whose own coin fell on `sample_rate`; b varies and may be zero."""
    return (torch.rand(count, generator=generator, dtype=torch.float64) < sample_rate).nonzero().flatten()


def clipped_sum(rows: Tensor, clip_norm: float) -> Tensor:
    """Sum of rows [b, D], each cut to at most `clip_norm`, as float64 [D]. What is not finite counts as zero.

    float64, because in float32 the rounding of each addition would depend on one example's numbers.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for row, length in zip(rows, torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).tolist(), strict=True):
        if math.isfinite(length):
            total.add_(row, alpha=clip_norm / max(length, clip_norm))
    return total


def per_sample_gradients(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    losses: Callable[[], Tensor],
    size: int,
    samplers: Mapping[type[nn.Module], Sampler],
) -> Tensor:
    """The gradient of each of `size` losses, joined over `trained`: [size, D]. The model is left as it was."""
    for name, module in model.named_modules():
        if _mixes_examples(module):
            raise ConfigError(
                f"{name} normalises over the batch, which mixes examples: call eval() on it or use LayerNorm"
            )
        if not module.training and any(leaf.requires_grad for leaf in module.parameters(recurse=False)):
            raise ConfigError(f"{name} is trained and in evaluation mode: call train() on the model")
    with _hooks(model, size, samplers):
        each = losses()
        if each.shape != (size,):
            raise ConfigError(f"a private gradient needs one loss an example, [{size}], not {list(each.shape)}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            warnings.filterwarnings("ignore", message="In CPU autocast", category=UserWarning)
            whole = torch.autograd.grad(each.sum(), list(trained.values()), allow_unused=True)
        parts: list[Tensor] = []
        for (name, leaf), expected in zip(trained.items(), whole, strict=True):
            rows: Tensor | None = getattr(leaf, "grad_sample", None)
            if not isinstance(rows, Tensor) or rows.shape != (size, *leaf.shape) or expected is None:
                raise ConfigError(f"{name} gets no gradient from each example: its layer is never called, or unknown")
            parts.append(rows.detach().flatten(1))
            if not _adds_up(parts[-1], expected.flatten()):
                raise ConfigError(f"{name} is also used outside its own layer's call, where examples cannot be told")
    return torch.cat(parts, dim=1)


def refuse_layers(model: nn.Module) -> None:
    """Raises ConfigError for layers whose per-sample gradients would be wrong or missing, with what to do instead."""
    for name, module in model.named_modules():
        trained = any(leaf.requires_grad for leaf in module.parameters())
        attends = isinstance(module, nn.MultiheadAttention)
        wraps = isinstance(getattr(module, "base_layer", None), nn.MultiheadAttention)
        if trained and (attends or wraps):
            raise ConfigError(
                f"{name} is an nn.MultiheadAttention, which goes around its own layers: adapt separate projections"
            )
        if trained and isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(f"{name} is a trained BatchNorm, which mixes examples: freeze it and call eval() on it")
        if any(getattr(module, "use_dora", {}).values()) or len(getattr(module, "lora_magnitude_vector", ())):
            raise ConfigError(f"{name} is a DoRA layer, whose norm is no example's own: use plain LoRA")
        if len(getattr(module, "lora_embedding_A", ())):
            raise ConfigError(f"{name} is LoRA on an embedding, which has no per-sample rule: leave it out")


def low_rank_samples(layer: Any, inputs: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """The sampler of a layer W x + scale * B (A x) whose `lora_B` [out, r] is trained: W gets no gradient formed.

    inputs: one tensor [b, ..., in]; backprops: [b, ..., out].
    """
    reduced = inputs[0] @ layer.lora_A.detach().T
    return {layer.lora_B: layer.scale * torch.einsum("b...o,b...r->bor", backprops, reduced)}


def spend(history: Sequence[Sequence[float]], privacy: Privacy, steps: int) -> History:
    """The history with `steps` more private steps in it. Takes what JSON makes of a history, too."""
    before = tuple((float(noise), float(rate), int(taken)) for noise, rate, taken in history)
    now = (privacy.noise_multiplier, privacy.sample_rate)
    if steps == 0:
        return before
    if before and before[-1][:2] == now:
        return (*before[:-1], (*now, before[-1][2] + steps))
    return (*before, (*now, steps))


def epsilon(history: Sequence[Sequence[float]], target_delta: float) -> float:
    """What all these steps cost an example at `target_delta`: 0 for none, infinite for one without noise.

    Privacy random variables, Gopi et al. 2021 (arXiv:2106.02848), as Opacus computes them: tight to 0.01. Where that
    is past any use, the Renyi bound, which is larger and still one.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant  # noqa: PLC0415 - takes seconds

    taken = [(float(noise), float(rate), int(steps)) for noise, rate, steps in history if steps and rate]
    if not taken:
        return 0.0
    if any(noise == 0 for noise, _, _ in taken):
        return math.inf
    bounds: list[float] = []
    for kind in (RDPAccountant, PRVAccountant):
        accountant = kind()
        accountant.history = taken
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an order at the end of its range, a log of zero: the bound holds
            bounds.append(float(accountant.get_epsilon(target_delta)))
        if bounds[0] > _BARELY_PRIVATE:
            break
    return bounds[-1]


@contextmanager
def _hooks(model: nn.Module, size: int, samplers: Mapping[type[nn.Module], Sampler]) -> Iterator[None]:
    """Opacus' hooks for the length of one step, so that no penalty or evaluation is ever mistaken for examples."""
    import opacus.grad_sample  # noqa: PLC0415 - takes seconds

    class Hooks(opacus.grad_sample.grad_sample_module.GradSampleHooks):  # type: ignore[misc]
        GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {
            **opacus.grad_sample.GradSampleModule.GRAD_SAMPLERS,
            **samplers,
        }

    try:
        hooks = Hooks(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise ConfigError(
            "a trained layer keeps buffers, which remember examples: freeze it or leave it out"
        ) from error
    guards = [
        module.register_forward_pre_hook(_batch_guard(name, size))
        for name, module in model.named_modules()
        if any(leaf.requires_grad for leaf in module.parameters(recurse=False))
    ]
    try:
        yield
    finally:
        for guard in guards:
            guard.remove()
        hooks.cleanup()
        for module in model.modules():
            for left in ("activations", "max_batch_len"):  # a step that failed half-way leaves them
                module.__dict__.pop(left, None)


def _batch_guard(name: str, size: int) -> Callable[[nn.Module, Collection[Any]], None]:
    def check(_: nn.Module, inputs: Collection[Any]) -> None:
        first = next(iter(inputs), None)
        if not isinstance(first, Tensor) or first.dim() == 0 or len(first) != size:
            shape = list(first.shape) if isinstance(first, Tensor) else "no tensor"
            raise ConfigError(
                f"{name} is trained and was given {shape} for a batch of {size}, where examples cannot be told apart: "
                "give it [B, ..., in]"
            )

    return check


def _mixes_examples(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    return module.training or module.running_mean is None


def _adds_up(rows: Tensor, expected: Tensor) -> bool:
    """Not so where part of a gradient was made outside the hooked layer; not a number is left to `clipped_sum`."""
    return not bool((rows.sum(dim=0) - expected).norm() > _DISAGREEMENT * rows.norm(dim=1).sum())


def _mixed(generator: Generator, secret: int) -> Generator:
    public = int(torch.randint(2**62, (1,), generator=generator))
    return Generator().manual_seed(int(np.random.SeedSequence((secret, public)).generate_state(1, np.uint64)[0]))
