"""The flow model and its judge as ONNX graphs, written by hand.

Torch's exporter takes tens of seconds, names things as it likes and has to be talked into adapters as inputs. Here
every weight keeps its `state_dict` name, so that a later release can put its weights into the same graph, and an
adapted layer is three Gemm: alpha / r * (x A') B' + (x W' + b). With the base in integers the first of them is an
integer product; adapters stay float32 in both, since they change while the base does not.
"""

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from learning_core.models.blocks import block_shapes
from learning_core.models.flow_image import FlowImageConfig, linear_shapes, time_frequencies
from learning_core.models.integer_layers import Linear, integer_linear
from learning_core.models.onnx_writer import GraphWriter, tensor
from learning_core.params import Params

LABEL_DELTA = "label_delta"


def flow_image_graph(config: FlowImageConfig, weights: Params, scale: float) -> ModelProto:
    """X [B, C, H, W], t [B], y [B] -> velocity, embedding. `scale`: alpha / r of the adapters that may be fed."""
    write = GraphWriter(weights)
    return _written(write, FlowWriter(write, config, scale, _float_linear(write)))


def int8_flow_image_graph(config: FlowImageConfig, weights: Params, scale: float) -> ModelProto:
    """The same with integer products in the blocks, where nine tenths of the work are."""
    layers = block_shapes(config.width, config.depth)
    write = GraphWriter({name: value for name, value in weights.items() if name.removesuffix(".weight") not in layers})
    whole, real = integer_linear(write, weights), _float_linear(write)

    def linear(path: str, flat: str) -> str:
        return whole(path, flat) if path in layers else real(path, flat)

    return _written(write, FlowWriter(write, config, scale, linear))


def _float_linear(write: GraphWriter) -> Linear:
    return lambda path, flat: write.op("Gemm", flat, f"{path}.weight", f"{path}.bias", transB=1)


def _written(write: GraphWriter, flow: "FlowWriter") -> ModelProto:
    config = flow.config
    declare_adapters(write, config)
    condition = flow.condition()
    tokens = flow.patchified()
    modulation = write.op("Reshape", flow.linear("ada", condition), write.constant([-1, 6, config.width]))
    for index in range(config.depth):
        tokens = flow.block(f"blocks.{index}", tokens, modulation)
    write.op("ReduceMean", tokens, write.constant([1]), keepdims=0, result="embedding")
    flow.velocity(tokens, condition)
    image: list[int | str] = ["batch", config.channels, config.side, config.side]
    inputs = [tensor("x", image), tensor("t", ["batch"]), tensor("y", ["batch"], integers=True)]
    return write.model("flow_image", inputs, [tensor("velocity", image), tensor("embedding", ["batch", config.width])])


def declare_adapters(write: GraphWriter, config: FlowImageConfig) -> None:
    """Optional inputs "<path>.lora_A" [r, in], "<path>.lora_B" [out, r] and "label_delta", which change nothing."""
    for path, (out, into) in linear_shapes(config).items():  # by default of rank 1, which costs least
        write.default(f"{path}.lora_A", ["r", into], np.zeros((1, into), np.float32))
        write.default(f"{path}.lora_B", [out, "r"], np.zeros((out, 1), np.float32))
    labels = (config.num_conditions + 1, config.width)
    write.default(LABEL_DELTA, labels, np.zeros(labels, np.float32))


@dataclass(frozen=True)
class FlowWriter:
    """The parts of `FlowImage`, each written where its torch twin is computed. Linear layers see tokens as [B*T, d]."""

    write: GraphWriter
    config: FlowImageConfig
    scale: float
    base: Linear

    def condition(self) -> str:
        write, frequencies = self.write, time_frequencies(self.config.width).numpy()
        column = write.op("Unsqueeze", "t", write.constant([1]))
        angles = write.op("Mul", column, write.constant(frequencies))
        code = write.op("Concat", write.op("Cos", angles), write.op("Sin", angles), axis=1)
        timed = self.linear("tm.2", self.silu(self.linear("tm.0", code)))
        labelled = write.op("Gather", write.op("Add", "label.weight", LABEL_DELTA), "y", axis=0)
        return self.silu(write.op("Add", timed, labelled))

    def patchified(self) -> str:
        write, config = self.write, self.config
        grid, patch = config.side // config.patch, config.patch
        cut = write.op("Reshape", "x", write.constant([-1, config.channels, grid, patch, grid, patch]))
        rows = write.op("Transpose", cut, perm=[0, 2, 4, 1, 3, 5])
        flat = write.op("Reshape", rows, write.constant([-1, config.patch_values]))
        return write.op("Add", self.as_tokens(self.linear("patchify", flat)), "position")

    def block(self, path: str, tokens: str, modulation: str) -> str:
        write = self.write
        modulation = write.op("Add", modulation, f"{path}.table")
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = write.split(modulation, 6, axis=1)
        update = self.linear(f"{path}.proj", self.attended(path, self.modulated(tokens, shift_a, scale_a)))
        tokens = write.op("Add", tokens, write.op("Mul", gate_a, self.as_tokens(update)))
        hidden = self.linear(f"{path}.fc1", self.modulated(tokens, shift_m, scale_m))
        update = self.linear(f"{path}.fc2", write.op("Gelu", hidden))
        return write.op("Add", tokens, write.op("Mul", gate_m, self.as_tokens(update)))

    def attended(self, path: str, flat: str) -> str:
        write, config = self.write, self.config
        head_width = config.width // config.heads
        heads = write.constant([-1, config.tokens, 3, config.heads, head_width])
        packed = write.op("Reshape", self.linear(f"{path}.qkv", flat), heads)
        query, key, value = write.split(write.op("Transpose", packed, perm=[2, 0, 3, 1, 4]), 3, axis=0)
        scores = write.op("MatMul", query, write.op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        softness = write.constant(np.array([head_width**-0.5], np.float32))
        shares = write.op("Softmax", write.op("Mul", scores, softness), axis=-1)
        return self.as_flat(write.op("Transpose", write.op("MatMul", shares, value), perm=[0, 1, 3, 2, 4]))

    def velocity(self, tokens: str, condition: str) -> str:
        write, config = self.write, self.config
        grid, patch = config.side // config.patch, config.patch
        both = write.op("Reshape", self.linear("adao", condition), write.constant([-1, 2, config.width]))
        shift, scale = write.split(both, 2, axis=1)
        flat = self.linear("out", self.modulated(tokens, shift, scale))
        cut = write.op("Reshape", flat, write.constant([-1, grid, grid, config.channels, patch, patch]))
        image = write.constant([-1, config.channels, config.side, config.side])
        return write.op("Reshape", write.op("Transpose", cut, perm=[0, 3, 1, 4, 2, 5]), image, result="velocity")

    def linear(self, path: str, flat: str) -> str:
        write = self.write
        base = self.base(path, flat)
        if path not in linear_shapes(self.config):
            return base
        low = write.op("Gemm", flat, f"{path}.lora_A", transB=1)
        return write.op("Gemm", low, f"{path}.lora_B", base, transB=1, alpha=self.scale)

    def modulated(self, tokens: str, shift: str, scale: str) -> str:
        write, width = self.write, self.config.width
        ones = write.constant(np.ones(width, np.float32))
        normal = write.op("LayerNormalization", tokens, ones, axis=-1)
        scaled = write.op("Mul", normal, write.op("Add", scale, ones))
        return self.as_flat(write.op("Add", scaled, shift))

    def silu(self, x: str) -> str:
        return self.write.op("Mul", x, self.write.op("Sigmoid", x))

    def as_flat(self, tokens: str) -> str:
        shape = self.write.constant([-1, self.config.width])
        return self.write.op("Reshape", tokens, shape)

    def as_tokens(self, flat: str) -> str:
        shape = self.write.constant([-1, self.config.tokens, self.config.width])
        return self.write.op("Reshape", flat, shape)


def judge_graph(weights: Params, channels: int, side: int) -> ModelProto:
    """X [B, C, H, W] -> logits [B, num_conditions], features [B, 64], z-scored."""
    write = GraphWriter(weights)
    seen = write.op("Gelu", write.op("Conv", "x", "near.weight", "near.bias", pads=[1, 1, 1, 1]))
    seen = write.op("Gelu", write.op("Conv", seen, "far.weight", "far.bias", pads=[1, 1, 1, 1]))
    flat = write.op("Flatten", write.op("MaxPool", seen, kernel_shape=[2, 2], strides=[2, 2]))
    raw = write.op("Gelu", write.op("Gemm", flat, "features.weight", "features.bias", transB=1))
    write.op("Gemm", raw, "head.weight", "head.bias", transB=1, result="logits")
    write.op("Div", write.op("Sub", raw, "feature_mean"), "feature_spread", result="features")
    conditions, features = weights["head.weight"].shape
    outputs = [tensor("logits", ["batch", conditions]), tensor("features", ["batch", features])]
    return write.model("judge", [tensor("x", ["batch", channels, side, side])], outputs)
