"""Models as ONNX bytes that answer as torch does: every export is compared before it is handed out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from learning_core.errors import DewfallError, Malformed
from learning_core.models.blocks import block_shapes
from learning_core.models.flow_image import FlowImage
from learning_core.models.integer_layers import integer_products
from learning_core.models.judge import Judge
from learning_core.models.lora import AdaptedEmbedding, AdaptedLinear, build_student, start_factors
from learning_core.models.onnx_graph import LABEL_DELTA, flow_image_graph, int8_flow_image_graph, judge_graph
from learning_core.models.onnx_writer import CONSTANT
from learning_core.models.weights import Module, as_array, as_tensor, weights_of
from learning_core.params import Array, Params
from learning_core.samples import Batch

Feed = Mapping[str, NDArray[Any]]
Evaluate = Callable[[bytes, Feed], list[Array]]
TOLERANCE = 1e-4
INT8_COST = 0.1  # how far integers may turn a velocity, as a share of its length
PROBED = 4  # samples that every comparison uses


class NotAlike(DewfallError):
    """A graph answers otherwise than the model it was made of."""


def by_reference(model: bytes, feed: Feed) -> list[Array]:
    """All outputs, by the evaluator that defines the standard; slow, but it needs nothing else."""
    return list(ReferenceEvaluator(onnx.load_from_string(model)).run(None, dict(feed)))


def export_student(model: FlowImage, rank: int, alpha: float, probe: Batch, evaluate: Evaluate = by_reference) -> bytes:
    """A plain student with room for adapters of any rank, B scaled by alpha / rank whatever rank is fed.

    Compared with torch on some `probe` samples, as it is and with random adapters of two ranks, to 1e-4.
    """
    exported = flow_image_graph(model.config, weights_of(model), alpha / rank)
    data: bytes = exported.SerializeToString(deterministic=True)
    onnx.checker.check_model(exported, full_check=True)
    for twin, adapter in _twins(model, (rank, 2 * rank), alpha / rank):
        feed, wanted = _probed(twin, probe)
        compare(evaluate(data, {**feed, **adapter}), wanted)
    return data


def export_int8_student(
    model: FlowImage, rank: int, alpha: float, probe: Batch, evaluate: Evaluate = by_reference
) -> bytes:
    """The same with the base in integers. Raises NotAlike where that turns a velocity by over `INT8_COST`.

    DewfallError where a layer of the blocks is no integer product: exporters have quantized nothing before, silently.
    """
    config = model.config
    exported = int8_flow_image_graph(config, weights_of(model), alpha / rank)
    if integer_products(exported) != len(block_shapes(config.width, config.depth)):
        raise DewfallError("the export did not turn every layer of the blocks to integers; do not release this model")
    data: bytes = exported.SerializeToString(deterministic=True)
    onnx.checker.check_model(exported, full_check=True)
    for twin, adapter in _twins(model, (rank,), alpha / rank):
        feed, wanted = _probed(twin, probe)
        velocity = evaluate(data, {**feed, **adapter})[0]
        turned = float(np.linalg.norm(velocity - wanted[0]) / np.linalg.norm(wanted[0]))
        if not turned <= INT8_COST:
            raise NotAlike(f"integers turn this model's velocity by {turned:.3f} of it; release it in float32")
    return data


def export_judge(judge: Judge, probe: Batch, evaluate: Evaluate = by_reference) -> bytes:
    """The judge, compared with torch on some `probe` samples."""
    channels, side = probe.features.shape[1:3]
    exported = judge_graph(weights_of(judge), channels, side)
    data: bytes = exported.SerializeToString(deterministic=True)
    onnx.checker.check_model(exported, full_check=True)
    images = probe.features[:PROBED]
    with torch.no_grad():
        wanted = judge(as_tensor(images))
    compare(evaluate(data, {"x": images}), [as_array(value) for value in wanted])
    return data


def reweight(student_onnx: bytes, weights: Params) -> bytes:
    """The same graph with other weights. Raises Malformed unless names and shapes are exactly those it has."""
    model = onnx.load_from_string(student_onnx)
    optional = {entry.name for entry in model.graph.input}
    present = {
        number.name: number
        for number in model.graph.initializer
        if number.name not in optional and not number.name.startswith(CONSTANT)
    }
    odd = present.keys() ^ weights.keys()
    odd |= {name for name in present.keys() & weights.keys() if tuple(present[name].dims) != weights[name].shape}
    if odd:
        raise Malformed(f"these weights belong to another graph: they differ at {', '.join(sorted(odd)[:4])}")
    for name, number in present.items():
        number.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[name], np.float32), name))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def adapter_inputs(model: nn.Module) -> dict[str, Array]:
    """What to feed the graph of the base so that it answers as this model with its adapters does."""
    feed: dict[str, Array] = {}
    for path, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            feed |= {f"{path}.lora_A": as_array(module.lora_A), f"{path}.lora_B": as_array(module.lora_B)}
        if isinstance(module, AdaptedEmbedding):
            feed[LABEL_DELTA] = as_array(module.merged() - module.weight)
    return feed


def _random_student(model: FlowImage, rank: int, alpha: float) -> FlowImage:
    """The model with an adapter that changes all it can, label rows included."""
    student = build_student(model.config, weights_of(model), start_factors(model.config, rank, seed=rank), alpha, ())
    return shaken(student, seed=rank)


@torch.no_grad()
def shaken(student: Module, seed: int) -> Module:
    """Give all that may be trained random values, in place."""
    generator = torch.Generator().manual_seed(seed)
    for value in student.parameters():
        if value.requires_grad:
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return student


def _twins(model: FlowImage, ranks: Sequence[int], scale: float) -> Iterator[tuple[FlowImage, Params]]:
    """The model as it is and with a random adapter of each rank, with what to feed the graph for each."""
    yield model, {}
    for rank in ranks:
        adapted = _random_student(model, rank, scale * rank)
        yield adapted, adapter_inputs(adapted)


def _probed(model: FlowImage, probe: Batch) -> tuple[Feed, list[Array]]:
    """Inputs of the graph and the outputs of torch."""
    images = probe.features[:PROBED]
    times = np.linspace(0, 1, len(images), dtype=np.float32)
    labels = probe.conditions[:PROBED].copy()
    labels[-1] = model.config.null_condition
    x, t, y = as_tensor(images), as_tensor(times), torch.from_numpy(labels)
    with torch.no_grad():
        wanted = [as_array(model(x, t, y)), as_array(model.hidden(x, model.condition(t, y)).mean(dim=1))]
    return {"x": images, "t": times, "y": labels}, wanted


def compare(given: list[Array], wanted: list[Array]) -> None:
    """Raises DewfallError unless all outputs are those of torch, to TOLERANCE."""
    apart = max(float(np.abs(one - other).max()) for one, other in zip(given, wanted, strict=True))
    if not apart <= TOLERANCE:
        raise NotAlike(f"the exported graph and torch differ by {apart:.2g}; do not release this model")
