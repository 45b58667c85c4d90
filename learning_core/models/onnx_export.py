"""Students and judges as ONNX graphs, written node by node from the models' own structure.

A tracing exporter takes many seconds and renames what adapters are addressed by; here every weight keeps its name, the
adapters are inputs that default to "no change" with a symbolic rank, and each export is compared with torch before it
is handed out.
"""

import math

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from learning_core.errors import Malformed
from learning_core.federation.lora_algebra import LABEL_DELTA
from learning_core.models.flow_image import FlowImage, linear_shapes
from learning_core.models.judge import FEATURES, Judge
from learning_core.models.lora import build_student, read_adapter, start_factors, write_adapter
from learning_core.models.onnx_graph import GraphBuilder
from learning_core.models.weights import as_array, as_tensor, weights_of
from learning_core.params import Array, Params, shapes_of

TOLERANCE = 1e-4


def export_student(model: FlowImage, rank: int, alpha: float) -> bytes:
    """A plain flow model with room for adapters.

    Inputs x: [B, C, H, W], t: [B], y: [B] int64 and, optional, "<path>.lora_A" [r, in], "<path>.lora_B" [out, r],
    "label_delta" [num_conditions + 1, d]; outputs velocity [B, C, H, W], embedding [B, d]. The change of a layer is
    alpha / rank * B A, whatever r is. Raises Malformed when the graph does not compute what torch does.
    """
    graph = _student_graph(model, rank, alpha / rank)
    _compare_student(graph, model, rank, alpha)
    return bytes(graph.SerializeToString())


def export_judge(judge: Judge) -> bytes:
    """Input x: [B, C, H, W]; outputs logits [B, K], features [B, 64]. Raises Malformed when parity fails."""
    graph = _judge_graph(judge)
    channels, side = judge.near.in_channels, _judge_side(judge)
    images = np.random.default_rng(0).uniform(-1, 1, (5, channels, side, side)).astype(np.float32)
    with torch.no_grad():
        expected = [as_array(value) for value in judge(as_tensor(images))]
    _compare(graph, {"x": images}, expected, "judge")
    return bytes(graph.SerializeToString())


def reweight(student_onnx: bytes, weights: Params) -> bytes:
    """The same graph with other weights of the same names and shapes. Raises Malformed when they are not."""
    model = onnx.load_model_from_string(student_onnx)
    optional = {given.name for given in model.graph.input}
    held = {
        constant.name: constant
        for constant in model.graph.initializer
        if constant.name not in optional and not constant.name.startswith("constant.")
    }
    if {name: tuple(constant.dims) for name, constant in held.items()} != shapes_of(weights):
        raise Malformed("these weights belong to another graph: their names or shapes differ; export the student anew")
    for name, constant in held.items():
        constant.CopyFrom(numpy_helper.from_array(np.array(weights[name], np.float32), name))
    return bytes(model.SerializeToString())


def _student_graph(model: FlowImage, rank: int, factor: float) -> onnx.ModelProto:  # noqa: PLR0915 - node by node
    config = model.config
    width, heads, tokens = config.width, config.heads, config.tokens
    grid, patch, channels = config.side // config.patch, config.patch, config.channels
    image = ("B", channels, config.side, config.side)
    g = GraphBuilder(weights_of(model))
    x, t, y = g.input("x", image), g.input("t", ("B",)), g.input("y", ("B",), TensorProto.INT64)
    adapted = linear_shapes(config)
    ones = g.constant(np.ones(width, np.float32))
    one = g.constant(np.array(1.0, np.float32))

    def linear(path: str, rows: str) -> str:
        """[N, in] -> [N, out], with the adapter's detour where there is one."""
        base = g.node("Gemm", rows, g.weight(f"{path}.weight"), g.weight(f"{path}.bias"), transB=1)
        if path not in adapted:
            return base
        out, size = adapted[path]
        a = g.adapter_input(f"{path}.lora_A", (rank, size), ("r", size))
        b = g.adapter_input(f"{path}.lora_B", (out, rank), (out, "r"))
        return g.node("Gemm", g.node("Gemm", rows, a, transB=1), b, base, transB=1, alpha=factor)

    def silu(value: str) -> str:
        return g.node("Mul", value, g.node("Sigmoid", value))

    def modulate(value: str, shift: str, stretch: str) -> str:
        normal = g.node("LayerNormalization", value, ones, axis=-1, epsilon=1e-5)
        return g.node("Add", g.node("Mul", normal, g.node("Add", stretch, one)), shift)

    def attend(rows: str) -> str:
        packed = g.reshape(linear(f"{path}.qkv", rows), -1, tokens, 3, heads, width // heads)
        query, key, value = g.split(packed, 3, axis=2)
        query, value = (_heads_first(g, each, tokens, heads, width, (0, 2, 1, 3)) for each in (query, value))
        key = _heads_first(g, key, tokens, heads, width, (0, 2, 3, 1))
        softness = g.constant(np.array(1 / math.sqrt(width // heads), np.float32))
        weights = g.node("Softmax", g.node("MatMul", g.node("Mul", query, softness), key), axis=-1)
        mixed = g.node("Transpose", g.node("MatMul", weights, value), perm=(0, 2, 1, 3))
        return linear(f"{path}.proj", g.reshape(mixed, -1, width))

    angles = g.node("Mul", g.reshape(t, -1, 1), g.constant(as_array(model.get_buffer("frequencies"))))
    timed = linear("tm.0", g.node("Concat", g.node("Cos", angles), g.node("Sin", angles), axis=1))
    timed = linear("tm.2", silu(timed))
    labels = (config.num_conditions + 1, width)
    table = g.node("Add", g.weight("label.weight"), g.adapter_input(LABEL_DELTA, labels, labels))
    condition = silu(g.node("Add", timed, g.node("Gather", table, y)))
    modulation = g.reshape(linear("ada", condition), -1, 6, width)

    cut = g.node("Transpose", g.reshape(x, -1, channels, grid, patch, grid, patch), perm=(0, 2, 4, 1, 3, 5))
    hidden = g.reshape(linear("patchify", g.reshape(cut, -1, config.patch_values)), -1, tokens, width)
    hidden = g.node("Add", hidden, g.weight("position"))
    for index in range(config.depth):
        path = f"blocks.{index}"
        parts = g.split(g.node("Add", modulation, g.weight(f"{path}.table")), 6, axis=1)
        shift_a, stretch_a, gate_a, shift_m, stretch_m, gate_m = parts
        update = g.reshape(attend(g.reshape(modulate(hidden, shift_a, stretch_a), -1, width)), -1, tokens, width)
        hidden = g.node("Add", hidden, g.node("Mul", gate_a, update))
        inner = linear(f"{path}.fc1", g.reshape(modulate(hidden, shift_m, stretch_m), -1, width))
        update = g.reshape(linear(f"{path}.fc2", g.node("Gelu", inner)), -1, tokens, width)
        hidden = g.node("Add", hidden, g.node("Mul", gate_m, update))

    shift, stretch = g.split(g.reshape(linear("adao", condition), -1, 2, width), 2, axis=1)
    values = linear("out", g.reshape(modulate(hidden, shift, stretch), -1, width))
    joined = g.node("Transpose", g.reshape(values, -1, grid, grid, channels, patch, patch), perm=(0, 3, 1, 4, 2, 5))
    g.output(g.reshape(joined, -1, channels, config.side, config.side), "velocity", image)
    mean = g.node("ReduceMean", hidden, g.constant(np.array([1], np.int64)), keepdims=0)
    g.output(mean, "embedding", ("B", width))
    return g.build("flow_image")


def _heads_first(g: GraphBuilder, part: str, tokens: int, heads: int, width: int, order: tuple[int, ...]) -> str:
    return g.node("Transpose", g.reshape(part, -1, tokens, heads, width // heads), perm=order)


def _judge_graph(judge: Judge) -> onnx.ModelProto:
    weights = weights_of(judge)
    g = GraphBuilder(weights)
    side, channels, num_conditions = _judge_side(judge), judge.near.in_channels, judge.head.out_features
    seen = g.input("x", ("B", channels, side, side))
    for path in ("near", "far"):
        around = {"pads": (1, 1, 1, 1), "kernel_shape": (3, 3)}
        seen = g.node("Gelu", g.node("Conv", seen, g.weight(f"{path}.weight"), g.weight(f"{path}.bias"), **around))
    flat = g.node("Flatten", g.node("MaxPool", seen, kernel_shape=(2, 2), strides=(2, 2)), axis=1)
    raw = g.node("Gelu", g.node("Gemm", flat, g.weight("features.weight"), g.weight("features.bias"), transB=1))
    logits = g.node("Gemm", raw, g.weight("head.weight"), g.weight("head.bias"), transB=1)
    centred = g.node("Sub", raw, g.weight("feature_mean"))
    g.output(logits, "logits", ("B", num_conditions))
    g.output(g.node("Div", centred, g.weight("feature_spread")), "features", ("B", FEATURES))
    return g.build("judge")


def _judge_side(judge: Judge) -> int:
    return 2 * math.isqrt(judge.features.in_features // judge.far.out_channels)


def _compare_student(graph: onnx.ModelProto, model: FlowImage, rank: int, alpha: float) -> None:
    """Without an adapter, and with random ones of the declared rank and of another."""
    config, rng = model.config, np.random.default_rng(0)
    images = rng.uniform(-1, 1, (3, config.channels, config.side, config.side)).astype(np.float32)
    feed = {
        "x": images,
        "t": rng.uniform(0, 1, 3).astype(np.float32),
        "y": np.array([0, config.num_conditions - 1, config.num_conditions]),
    }
    with torch.no_grad():
        _compare(graph, feed, _torch_outputs(model, feed), "student")
        for used in (rank, rank + 3):
            start = start_factors(config, used, seed=used)
            adapted = build_student(config, weights_of(model), start, alpha * used / rank, range(config.num_conditions))
            adapter = {
                name: rng.normal(0, 0.05, value.shape).astype(np.float32)
                for name, value in read_adapter(adapted).items()
            }
            write_adapter(adapted, adapter)
            _compare(graph, {**feed, **start, **adapter}, _torch_outputs(adapted, feed), f"student at rank {used}")


def _torch_outputs(model: FlowImage, feed: Params) -> list[Array]:
    x, t, y = as_tensor(feed["x"]), as_tensor(feed["t"]), torch.tensor(feed["y"])
    return [as_array(model(x, t, y)), as_array(model.hidden(x, model.condition(t, y)).mean(dim=1))]


def _compare(graph: onnx.ModelProto, feed: Params, expected: list[Array], what: str) -> None:
    got = ReferenceEvaluator(graph).run(None, dict(feed))
    for mine, theirs in zip(expected, got, strict=True):
        apart = float(np.abs(mine - theirs).max())
        if not apart <= TOLERANCE:
            raise Malformed(f"the exported {what} differs from the model by {apart:.2g}; this is a defect, report it")
