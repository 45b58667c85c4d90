"""The byte model as an ONNX graph, written by hand: in float32, or with the base's layers in eight-bit integers.

Weights keep their `state_dict` names where they stay float32. An adapter stays float32 in both: it is a hundredth of
the work, and it changes while the base does not.
"""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from learning_core.models.blocks import block_shapes
from learning_core.models.integer_layers import Linear, integer_linear
from learning_core.models.language import BYTES, LanguageConfig, attention_bias, linear_shapes
from learning_core.models.onnx_writer import GraphWriter, tensor
from learning_core.params import Params

NEVER = np.float32(-1e9)  # what attention gives to the future: finite, so that no runtime makes a NaN of it


def language_graph(config: LanguageConfig, weights: Params, scale: float) -> ModelProto:
    """Ids [B, T] -> logits [B, T, 256], embedding [B, d]. `scale`: alpha / r of the adapters that may be fed."""
    write = GraphWriter(weights)

    def linear(path: str, flat: str) -> str:
        return write.op("Gemm", flat, f"{path}.weight", f"{path}.bias", transB=1)

    return LanguageWriter(write, config, scale, linear).model()


def int8_graph(config: LanguageConfig, weights: Params, scale: float) -> ModelProto:
    """The same with integer products in the base's layers."""
    layers = {f"{path}.weight" for path in block_shapes(config.width, config.depth)}
    write = GraphWriter({name: value for name, value in weights.items() if name not in layers})
    return LanguageWriter(write, config, scale, integer_linear(write, weights)).model()


@dataclass(frozen=True)
class LanguageWriter:
    """The parts of `Language`, each written where its torch twin is computed. Layers see tokens as [B*T, d]."""

    write: GraphWriter
    config: LanguageConfig
    scale: float
    base: Linear

    def model(self) -> ModelProto:
        write, width = self.write, self.config.width
        for path, (out, into) in linear_shapes(self.config).items():  # rank 1, which costs least, changes nothing
            write.default(f"{path}.lora_A", ["r", into], np.zeros((1, into), np.float32))
            write.default(f"{path}.lora_B", [out, "r"], np.zeros((out, 1), np.float32))
        shape = write.op("Shape", "ids")
        length = write.op("Shape", "ids", start=1)
        table = write.op("Gemm", "head.lora_B", "head.lora_A", "head.weight", alpha=self.scale)
        tokens = write.op("Gather", table, "ids", axis=0)
        whole = write.constant(np.maximum(attention_bias(self.config).numpy(), NEVER))
        twice = write.op("Concat", length, length, axis=0)
        bias = write.op("Slice", whole, write.constant([0, 0]), twice, write.constant([1, 2]))
        for index in range(self.config.depth):
            tokens = self.block(f"blocks.{index}", tokens, shape, bias)
        last = self.normalised(tokens)
        write.op("ReduceMean", last, write.constant([1]), keepdims=0, result="embedding")
        logits = write.op("Gemm", self.as_flat(last, width), table, "head.bias", transB=1)
        self.reshaped(logits, shape, [BYTES], result="logits")
        outputs = [tensor("logits", ["batch", "length", BYTES]), tensor("embedding", ["batch", width])]
        return write.model("language", [tensor("ids", ["batch", "length"], integers=True)], outputs)

    def block(self, path: str, tokens: str, shape: str, bias: str) -> str:
        write, width = self.write, self.config.width
        attended = self.attended(path, self.as_flat(self.normalised(tokens), width), shape, bias)
        update = self.reshaped(self.linear(f"{path}.proj", attended), shape, [width])
        tokens = write.op("Add", tokens, update)
        hidden = self.linear(f"{path}.fc1", self.as_flat(self.normalised(tokens), width))
        change = self.reshaped(self.linear(f"{path}.fc2", write.op("Gelu", hidden)), shape, [width])
        return write.op("Add", tokens, change)

    def attended(self, path: str, flat: str, shape: str, bias: str) -> str:
        write, config = self.write, self.config
        head_width = config.width // config.heads
        packed = self.reshaped(self.linear(f"{path}.qkv", flat), shape, [3, config.heads, head_width])
        query, key, value = write.split(write.op("Transpose", packed, perm=[2, 0, 3, 1, 4]), 3, axis=0)
        scores = write.op("MatMul", query, write.op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        softness = write.constant(np.array([head_width**-0.5], np.float32))
        shares = write.op("Softmax", write.op("Add", write.op("Mul", scores, softness), bias), axis=-1)
        joined = write.op("Transpose", write.op("MatMul", shares, value), perm=[0, 1, 3, 2, 4])
        return self.as_flat(joined, config.width)

    def linear(self, path: str, flat: str) -> str:
        low = self.write.op("Gemm", flat, f"{path}.lora_A", transB=1)
        return self.write.op("Gemm", low, f"{path}.lora_B", self.base(path, flat), transB=1, alpha=self.scale)

    def normalised(self, tokens: str) -> str:
        ones = self.write.constant(np.ones(self.config.width, np.float32))
        return self.write.op("LayerNormalization", tokens, ones, axis=-1)

    def as_flat(self, tokens: str, width: int) -> str:
        return self.write.op("Reshape", tokens, self.write.constant([-1, width]))

    def reshaped(self, flat: str, shape: str, inner: list[int], result: str = "") -> str:
        """Rows [B*T, ...] as [B, T, *inner]."""
        whole = self.write.op("Concat", shape, self.write.constant(inner), axis=0)
        return self.write.op("Reshape", flat, whole, result=result)
