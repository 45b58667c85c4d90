"""Any Hugging Face causal language model as a `CausalModel`: what is written for bytes then works on its tokens.

Built from the bytes of its folder, as the encoder is: nothing is fetched, nothing is unpickled, and no code in the
folder is run. PEFT adapters go on `module`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learning_core.errors import Malformed
from learning_core.models.hugging_face_folder import read_folder

LONGEST = 1024  # tokens looked at together, where the model itself has no smaller limit


@dataclass(frozen=True, slots=True)
class HuggingFaceLanguage:
    """A frozen causal model and its tokenizer. `encode`: a text in UTF-8 to ids [T]; `decode`: its inverse."""

    module: nn.Module
    encode: Callable[[bytes], Tensor]
    decode: Callable[[Tensor], bytes]
    context: int

    def __call__(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.module(input_ids=ids, use_cache=False).logits
        return logits

    def following(self, ids: Tensor, past: Any) -> tuple[Tensor, Any]:
        answer = self.module(input_ids=ids, past_key_values=past, use_cache=True)
        return answer.logits[:, -1], answer.past_key_values


def hugging_face_language(files: Mapping[str, bytes]) -> HuggingFaceLanguage:
    """A model from the files of its folder, by name: config.json, tokenizer.json and one or more .safetensors.

    Only architectures that transformers itself has. Raises Malformed.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (seconds to import; bytes need none)

    folder = read_folder(files, AutoModelForCausalLM.from_config, "language model")
    module, tokenizer = folder.module, folder.tokenizer
    _fill(module, folder.weights)
    _with_linear_layers(module)

    def encode(text: bytes) -> Tensor:
        return torch.tensor(tokenizer.encode(text.decode(), add_special_tokens=False).ids, dtype=torch.long)

    def decode(ids: Tensor) -> bytes:
        text: str = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text.encode()

    context = min(LONGEST, int(getattr(folder.config, "max_position_embeddings", LONGEST)))
    return HuggingFaceLanguage(module.eval().requires_grad_(False), encode, decode, context)


@torch.no_grad()
def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all the module has; what is tied to a given weight may be missing. Raises Malformed, having changed none."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    present: dict[str, Tensor] = module.state_dict()
    given = {name: weights[found] for name in present if (found := _given_as(name, prefix, weights))}
    filled = {present[name].data_ptr() for name in given}
    odd = [
        name
        for name, value in present.items()
        if (given[name].shape != value.shape if name in given else value.data_ptr() not in filled)
    ]
    if odd:
        raise Malformed(f"these weights belong to another language model: they differ at {', '.join(sorted(odd)[:4])}")
    for name, value in given.items():
        present[name].copy_(value)


def _with_linear_layers(module: nn.Module) -> None:
    """GPT-2 keeps its layers transposed in a class of its own; adapters go on plain linear layers, so it gets those."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    for path, layer in list(module.named_modules()):
        if isinstance(layer, Conv1D):
            linear = nn.Linear(layer.nx, layer.nf, device="meta")  # both its tensors are replaced
            linear.weight, linear.bias = nn.Parameter(layer.weight.T.contiguous()), layer.bias
            parent, _, leaf = path.rpartition(".")
            setattr(module.get_submodule(parent), leaf, linear)


def _given_as(name: str, prefix: str, weights: Mapping[str, Tensor]) -> str | None:
    """A file made from the model without its head leaves out the model's own prefix."""
    return next((known for known in (name, name.removeprefix(prefix)) if known in weights), None)
