"""Text, byte by byte: a small causal transformer that needs no tokenizer and so can read anything.

The decoder of Radford et al. 2019 (GPT-2): blocks that normalise first, one table for input and output. An id is a
byte, so text needs no vocabulary of its own, and bits per character compare across languages and styles.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from torch import Generator, Tensor, nn

from learning_core.errors import ConfigError
from learning_core.models.blocks import MLP_RATIO, block_shapes
from learning_core.models.lora import AdaptedLinear
from learning_core.models.weights import load_weights, seeded
from learning_core.params import Params

BYTES = 256
ROWS_AT_ONCE = 32  # windows judged together; bounds memory, changes nothing else

KeyValue = tuple[Tensor, Tensor]  # what a block remembers of the ids so far, [B, heads, T, d / heads] each


class CausalModel(Protocol):
    """Whatever tells the next id from those before it; ids need not be bytes. `context`: the most it sees at once."""

    @property
    def context(self) -> int: ...

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [B, T, V] of the id after each of ids: [B, T] int64."""

    def following(self, ids: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] of the id after all of a past (None: nothing yet) and ids, and their past together."""


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """Sizes. `context` is the longest text, in bytes, that is looked at together."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    context: int = 128

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.context < 2:
            raise ConfigError(f"every size of the model must be at least 1, and context at least 2: {self}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} must be a multiple of heads {self.heads}")


class Block(nn.Module):
    """Attention to what came before, and MLP. tokens: [B, T, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor, bias: Tensor, past: KeyValue | None = None) -> tuple[Tensor, KeyValue]:
        """Tokens after this block, and keys and values of past and present. bias: [heads, T, past and T]."""
        update, memory = self.attend(normalised(tokens), bias, past)
        tokens = tokens + update
        hidden: Tensor = self.fc1(normalised(tokens))
        change: Tensor = self.fc2(F.gelu(hidden))
        return tokens + change, memory

    def attend(self, tokens: Tensor, bias: Tensor, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        rows, length, width = tokens.shape
        packed: Tensor = self.qkv(tokens)
        query, key, value = packed.view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return joined, (key, value)


class Language(nn.Module):
    """What byte comes next. Submodule names are part of the adapter format: adapters are addressed by them."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.head: nn.Module = nn.Linear(config.width, BYTES)
        nn.init.normal_(self.head.get_parameter("weight"), std=0.02)
        nn.init.zeros_(self.head.get_parameter("bias"))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        for name in ("proj", "fc2"):  # every block begins as the identity, so depth costs no stability
            for block in self.blocks:
                nn.init.zeros_(block.get_submodule(name).get_parameter("weight"))
        self.register_buffer("bias", attention_bias(config), persistent=False)

    @property
    def context(self) -> int:
        return self.config.context

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, T, 256] of the byte after each of ids: [B, T] int64, T at most `context`."""
        logits: Tensor = self.head(self.hidden(ids))
        return logits

    def following(self, ids: Tensor, past: Sequence[KeyValue] | None) -> tuple[Tensor, list[KeyValue]]:
        """Logits [B, 256] of the byte after a past and ids, and the past of what follows them."""
        hidden, memory = self.advance(ids, past)
        return self.head(hidden[:, -1]), memory

    def hidden(self, ids: Tensor) -> Tensor:
        """Normalised tokens after the last block, [B, T, d]."""
        return self.advance(ids, None)[0]

    def advance(self, ids: Tensor, past: Sequence[KeyValue] | None) -> tuple[Tensor, list[KeyValue]]:
        """`hidden` of ids that follow a past, and the past of those that follow them."""
        start = 0 if past is None else past[0][0].shape[2]
        end = start + ids.shape[1]
        bias = self.get_buffer("bias")[:, start:end, :end]
        tokens = F.embedding(ids, self.table())
        memories: list[KeyValue] = []
        for index, block in enumerate(self.blocks):
            tokens, memory = block(tokens, bias, None if past is None else past[index])
            memories.append(memory)
        return normalised(tokens), memories

    def table(self) -> Tensor:
        """One vector for each byte, [256, d], for input and output alike; the same with the head's adapter, if any."""
        return self.head.merged() if isinstance(self.head, AdaptedLinear) else self.head.get_parameter("weight")

    def embed(self, ids: Tensor) -> Tensor:
        """What a text is about: last hidden tokens, averaged. ids: [B, T] -> [B, d]."""
        return self.hidden(ids).mean(dim=1)


def linear_shapes(config: LanguageConfig) -> dict[str, tuple[int, int]]:
    """What adapters attach to: the layers of the blocks, and the head, which is the table of the bytes as well."""
    return block_shapes(config.width, config.depth) | {"head": (BYTES, config.width)}


def new_language(config: LanguageConfig, seed: int) -> Language:
    """An untrained model; equal seeds give equal weights, and the global random state is left alone."""
    return seeded(lambda: Language(config), seed)


def language_of(config: LanguageConfig, weights: Params) -> Language:
    """A model with given weights, ready to write. Raises Malformed when they are another model's."""
    model = new_language(config, seed=0)
    load_weights(model, weights)
    return model.eval()


def ids_of(text: bytes) -> Tensor:
    """One id a byte, [len(text)] int64."""
    return torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))


def text_of(ids: Tensor) -> bytes:
    """Inverse of `ids_of`."""
    return bytes(ids.tolist())


def draw_windows(ids: Tensor, count: int, length: int, generator: Generator) -> Tensor:
    """Pieces of a text, [count, length], that begin anywhere. Raises ValueError when the text is shorter than one."""
    if len(ids) < length:
        raise ValueError(f"a text of {len(ids)} bytes has no window of {length}")
    starts = torch.randint(len(ids) - length + 1, (count, 1), generator=generator)
    return ids[starts + torch.arange(length)]


def language_loss(model: CausalModel, windows: Tensor) -> Tensor:
    """Cross-entropy of every next id, in nats, a scalar. windows: [B, T + 1] int64."""
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def bits_per_character(model: CausalModel, text: bytes, encode: Callable[[bytes], Tensor] = ids_of) -> float:
    """How many bits the model needs for each byte of a text; 8 for one who knows nothing of bytes.

    The text is cut into windows as long as the model's context, so that an id is foretold from half of it on average;
    the very first is given. Counted in bytes, so that models with other ids compare.
    """
    ids, length = encode(text), model.context
    if len(ids) < 2:
        raise ValueError("a text needs two ids before one of them can be foretold")
    windows = [ids[start : start + length + 1] for start in range(0, len(ids) - 1, length)]
    rest = [windows.pop()] if len(windows[-1]) <= length else []
    groups = [windows[start : start + ROWS_AT_ONCE] for start in range(0, len(windows), ROWS_AT_ONCE)]
    nats = 0.0
    for group in (*groups, *([rest] if rest else [])):
        rows = torch.stack(group)
        nats += language_loss(model, rows).item() * rows[:, 1:].numel()
    return nats / (len(text) - 1) / math.log(2)


@torch.no_grad()
def generate(model: CausalModel, prompt: Tensor, length: int, temperature: float, generator: Generator) -> Tensor:
    """The prompt [B, P >= 1] and `length` more ids, [B, P + length]. Temperature 0 takes the likeliest.

    A text that outgrows the context goes on from its latest half, so that each id costs one token, not a window.
    """
    ids, latest, past, seen = prompt, prompt[:, -model.context :], None, 0
    for _ in range(length):
        if seen + latest.shape[1] > model.context:
            latest, past, seen = ids[:, -(model.context // 2) :], None, 0
        logits, past = model.following(latest, past)
        seen += latest.shape[1]
        latest = _drawn(logits, temperature, generator)
        ids = torch.cat((ids, latest), dim=1)
    return ids


def _drawn(logits: Tensor, temperature: float, generator: Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=generator)


def attention_bias(config: LanguageConfig) -> Tensor:
    """What attention loses with distance, [heads, context, context]: all of it to what is still to come.

    Head h of n falls by 2^(-8h/n) a byte (ALiBi, Press et al. 2022, arXiv:2108.12409). After 100 steps on
    Tiny Shakespeare the model is at 3.0 bits per character; with learned positions it is at 3.5.
    """
    place = torch.arange(config.context, dtype=torch.float32)
    slopes = 2.0 ** (-8.0 * torch.arange(1, config.heads + 1) / config.heads)
    distance = place[:, None] - place
    return torch.where(distance < 0, -math.inf, -slopes[:, None, None] * distance)


def normalised(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:])
