"""An encoder of BERT's build as an ONNX graph, written by hand, with its pooling: from token numbers to one vector.

Weights keep their `state_dict` names where they stay float32, and adapters, always float32, the names that
`models.peft_door` gives them. Batch and length are open; a mask says which tokens are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import ModelProto
from torch import nn

from learning_core.errors import ConfigError
from learning_core.models.integer_layers import Linear, integer_linear, integer_rows
from learning_core.models.onnx_writer import GraphWriter, tensor
from learning_core.params import Params

ACTIVATIONS = MappingProxyType(
    {
        "gelu": ("Gelu", {}),
        "gelu_new": ("Gelu", {"approximate": "tanh"}),
        "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
        "relu": ("Relu", {}),
    }
)
LEAVES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
WORDS = "embeddings.word_embeddings.weight"
ABSENT = np.float32(-1e9)  # what attention gives to padding: finite, so that no runtime makes a NaN of it
SHORTEST = np.float32(1e-12)  # as torch's `normalize` has it
POOLED_LAYERS = 3  # by `word_and_meaning`, beside the words


@dataclass(frozen=True, slots=True)
class Build:
    """What a graph has to know of an encoder besides its weights. `positions`: the longest text, in tokens."""

    width: int
    depth: int
    heads: int
    positions: int
    epsilon: float
    activation: str


def build_of(module: nn.Module) -> Build:
    """Raises ConfigError for encoders that are not of BERT's build."""
    config: Any = getattr(module, "config", None)
    kind = getattr(config, "model_type", "no model_type")
    if kind != "bert" or getattr(config, "is_decoder", False):
        raise ConfigError(f"only encoders of BERT's build can be written as a graph, and this one is of {kind!r}")
    if config.hidden_act not in ACTIVATIONS:
        raise ConfigError(f"a graph knows the activations {', '.join(ACTIVATIONS)}, not {config.hidden_act!r}")
    return Build(
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        positions=config.max_position_embeddings,
        epsilon=config.layer_norm_eps,
        activation=config.hidden_act,
    )


def linear_layers(build: Build) -> list[str]:
    """The paths of all linear layers, each of which may carry an adapter."""
    return [f"encoder.layer.{block}.{leaf}" for block in range(build.depth) for leaf in LEAVES]


def encoder_graph(build: Build, weights: Params, adapted: Sequence[str], scale: float) -> ModelProto:
    """Ids and mask [B, T] -> embedding [B, d], as `mean_pool` has it, and word_and_meaning [B, 4 d].

    `adapted`: the layers that take an adapter of any rank, zero by default; `scale`: its alpha / r.
    """
    write = GraphWriter(weights)

    def linear(path: str, flat: str) -> str:
        return write.op("Gemm", flat, f"{path}.weight", f"{path}.bias", transB=1)

    words = write.op("Gather", WORDS, "ids", axis=0)
    return EncoderWriter(write, build, frozenset(adapted), scale, linear).model(words, weights)


def int8_encoder_graph(build: Build, weights: Params, adapted: Sequence[str], scale: float) -> ModelProto:
    """The same with integer products in the base's layers, and a table of words in integers."""
    whole = {WORDS, *(f"{path}.weight" for path in linear_layers(build))}
    write = GraphWriter({name: value for name, value in weights.items() if name not in whole})
    words = integer_rows(write, WORDS, weights[WORDS], "ids")
    return EncoderWriter(write, build, frozenset(adapted), scale, integer_linear(write, weights)).model(words, weights)


@dataclass(frozen=True)
class EncoderWriter:
    """BERT, Devlin et al. 2019 (arXiv:1810.04805), in the order it is computed. Layers see tokens as [B*T, d]."""

    write: GraphWriter
    build: Build
    adapted: frozenset[str]
    scale: float
    base: Linear

    def model(self, words: str, weights: Params) -> ModelProto:
        write, build = self.write, self.build
        for path in [path for path in linear_layers(build) if path in self.adapted]:
            out, into = weights[f"{path}.weight"].shape
            write.default(f"{path}.lora_A", ["r", into], np.zeros((1, into), np.float32))  # rank 1 costs least
            write.default(f"{path}.lora_B", [out, "r"], np.zeros((out, 1), np.float32))
        shape = write.op("Shape", "ids")
        there = write.op("Cast", "mask", to=1)
        absent = write.op("Mul", write.op("Sub", write.constant(np.ones(1, np.float32)), there), self.number(ABSENT))
        bias = write.op("Unsqueeze", absent, write.constant([1, 2]))  # [B, 1, 1, T], over heads and askers
        states = [self.embedded(words)]
        for index in range(build.depth):
            states.append(self.block(f"encoder.layer.{index}", states[-1], shape, bias))
        weight = write.op("Unsqueeze", there, write.constant([2]))
        count = write.op("Max", write.op("ReduceSum", weight, write.constant([1]), keepdims=0), self.number(1))
        pooled = {state: self.mean(state, weight, count) for state in (*states[-POOLED_LAYERS:], states[0])}
        length = write.op("ReduceL2", pooled[states[-1]], write.constant([1]), keepdims=1)
        write.op("Div", pooled[states[-1]], write.op("Max", length, self.number(SHORTEST)), result="embedding")
        side_by_side = [pooled[state] for state in (*reversed(states[-POOLED_LAYERS:]), states[0])]
        write.op("Concat", *side_by_side, axis=1, result="word_and_meaning")
        inputs = [tensor(name, ["batch", "length"], integers=True) for name in ("ids", "mask")]
        outputs = [("embedding", build.width), ("word_and_meaning", len(side_by_side) * build.width)]
        return write.model("encoder", inputs, [tensor(name, ["batch", width]) for name, width in outputs])

    def embedded(self, words: str) -> str:
        write = self.write
        length = write.op("Shape", "ids", start=1)
        places = write.op("Slice", "embeddings.position_embeddings.weight", write.constant([0]), length)
        kind = write.op("Gather", "embeddings.token_type_embeddings.weight", write.constant([0]), axis=0)
        added = write.op("Add", words, write.op("Add", places, kind))
        return self.normalised("embeddings.LayerNorm", added)

    def block(self, path: str, tokens: str, shape: str, bias: str) -> str:
        write = self.write
        flat = self.as_flat(tokens)
        update = self.linear(f"{path}.attention.output.dense", self.attended(path, flat, shape, bias))
        flat = self.normalised(f"{path}.attention.output.LayerNorm", write.op("Add", flat, update))
        kind, options = ACTIVATIONS[self.build.activation]
        hidden = write.op(kind, self.linear(f"{path}.intermediate.dense", flat), **options)
        change = self.linear(f"{path}.output.dense", hidden)
        flat = self.normalised(f"{path}.output.LayerNorm", write.op("Add", flat, change))
        return self.reshaped(flat, shape, [self.build.width])

    def attended(self, path: str, flat: str, shape: str, bias: str) -> str:
        write, build = self.write, self.build
        head_width = build.width // build.heads

        def heads(leaf: str, perm: Sequence[int]) -> str:
            seen = self.linear(f"{path}.attention.self.{leaf}", flat)
            return write.op("Transpose", self.reshaped(seen, shape, [build.heads, head_width]), perm=perm)

        query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
        scores = write.op("Mul", write.op("MatMul", query, key), self.number(head_width**-0.5))
        shares = write.op("Softmax", write.op("Add", scores, bias), axis=-1)
        return self.as_flat(write.op("Transpose", write.op("MatMul", shares, value), perm=[0, 2, 1, 3]))

    def linear(self, path: str, flat: str) -> str:
        base = self.base(path, flat)
        if path not in self.adapted:
            return base
        low = self.write.op("Gemm", flat, f"{path}.lora_A", transB=1)
        return self.write.op("Gemm", low, f"{path}.lora_B", base, transB=1, alpha=self.scale)

    def normalised(self, path: str, tokens: str) -> str:
        numbers = f"{path}.weight", f"{path}.bias"
        return self.write.op("LayerNormalization", tokens, *numbers, axis=-1, epsilon=self.build.epsilon)

    def mean(self, state: str, weight: str, count: str) -> str:
        """Over the tokens that are there: [B, T, d] -> [B, d]."""
        write = self.write
        return write.op(
            "Div", write.op("ReduceSum", write.op("Mul", state, weight), write.constant([1]), keepdims=0), count
        )

    def as_flat(self, tokens: str) -> str:
        return self.write.op("Reshape", tokens, self.write.constant([-1, self.build.width]))

    def reshaped(self, flat: str, shape: str, inner: list[int]) -> str:
        """Rows [B*T, ...] as [B, T, *inner]."""
        return self.write.op("Reshape", flat, self.write.op("Concat", shape, self.write.constant(inner), axis=0))

    def number(self, value: float | np.float32) -> str:
        return self.write.constant(np.array([value], np.float32))
