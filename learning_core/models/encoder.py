"""Texts as points: an encoder maps each to a vector, a head on top (`methods.analytic`) says which class it is.

Any Hugging Face encoder, built from the bytes of its folder, or a plain `nn.Module` with a tokenizer of its own. Mean
pooling and unit length make cosine similarity the natural distance: Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learning_core.errors import Malformed
from learning_core.models.hugging_face_folder import read_folder
from learning_core.params import Array

UNUSED = "pooler."  # in the class but not in what we compute, and so not in every file

Tokenize = Callable[[Sequence[str]], list[list[int]]]
States = Callable[[Tensor, Tensor], Sequence[Tensor]]
Pooling = Callable[[Sequence[Tensor], Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Encoder:
    """`tokenize`: texts to token numbers; `states(ids [B, T], mask [B, T])`: the hidden states, [B, T, d] per layer.

    The first state is the embedded input, the last one the output. `module` holds the weights that adapters change.
    """

    module: nn.Module
    tokenize: Tokenize
    states: States
    padding: int = 0


def encoder_of(files: Mapping[str, bytes], max_tokens: int = 128) -> Encoder:
    """A frozen encoder from the files of a Hugging Face folder, by name; longer texts are cut at `max_tokens`.

    Needs config.json, tokenizer.json and one or more .safetensors; nothing is fetched and no code in the folder is
    run, only architectures that transformers itself has. Raises Malformed.
    """
    from transformers import AutoModel  # noqa: PLC0415  (seconds to import, and a plain module needs none)

    folder = read_folder(files, AutoModel.from_config, "text encoder")
    module, tokenizer = folder.module.eval().requires_grad_(False), folder.tokenizer
    _fill(module, folder.weights)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [list(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]

    def states(ids: Tensor, mask: Tensor) -> Sequence[Tensor]:
        found: Sequence[Tensor] = module(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return found

    return Encoder(module, tokenize, states, int(folder.config.pad_token_id or 0))


def mean_pool(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The mean over a text's tokens in the last layer, at unit length: [B, d]."""
    return nn.functional.normalize(token_mean(states[-1], mask), dim=1)


def word_and_meaning(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The mean over a text's tokens in each of the last three layers, last one first, and of the words: [B, 4 d].

    Upper layers hold what a text means, the embedded words how it says so; a linear head over both errs least.
    """
    return torch.cat([token_mean(state, mask) for state in (*reversed(states[-3:]), states[0])], dim=1)


def token_mean(state: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens that are there. state: [B, T, d]; mask: [B, T], 1 or 0."""
    weight = mask[..., None].to(state.dtype)
    return (state * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)


def batch_of(tokens: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token numbers and mask, both [B, T], padded to the longest."""
    longest = max(len(row) for row in tokens)
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in tokens])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in tokens])
    return ids, mask


def batches(tokens: Sequence[Sequence[int]], padding: int, piece: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """All texts, `piece` at once: (which they are, ids [B, T], mask [B, T]). Like lengths together pad little."""
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    for start in range(0, len(order), piece):
        chosen = order[start : start + piece]
        yield chosen, *batch_of([tokens[index] for index in chosen], padding)


@torch.no_grad()
def embed(encoder: Encoder, texts: Sequence[str], pooling: Pooling = mean_pool, piece: int = 64) -> Array:
    """One row for each text, in their order: [N, d]."""
    tokens = encoder.tokenize(texts)
    rows: dict[int, Array] = {}
    for chosen, ids, mask in batches(tokens, encoder.padding, piece):
        pooled = pooling(encoder.states(ids, mask), mask)
        rows |= dict(zip(chosen, pooled.numpy().astype(np.float32), strict=True))
    return np.stack([rows[index] for index in range(len(texts))]) if rows else np.zeros((0, 0), np.float32)


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load what the module has; heads of the model the file was made from are left out. Raises Malformed."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    given = {name.removeprefix(prefix): value for name, value in weights.items()}
    present: dict[str, Any] = module.state_dict()
    odd = [
        name
        for name, value in present.items()
        if not name.startswith(UNUSED) and (name not in given or given[name].shape != value.shape)
    ]
    if odd:
        raise Malformed(f"these weights belong to another encoder: they differ at {', '.join(sorted(odd)[:4])}")
    fitting = {name: value for name, value in given.items() if name in present and value.shape == present[name].shape}
    module.load_state_dict(fitting, strict=False)
