"""The byte model as ONNX bytes that answer as torch does: every export is compared before it is handed out."""

import math

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from learning_core.errors import DewfallError
from learning_core.models.blocks import block_shapes
from learning_core.models.integer_layers import integer_products
from learning_core.models.language import Language, LanguageConfig, ids_of
from learning_core.models.language_graph import int8_graph, language_graph
from learning_core.models.language_lora import build_student, start_factors
from learning_core.models.onnx_export import PROBED, Evaluate, adapter_inputs, by_reference, compare, shaken
from learning_core.models.weights import as_array, weights_of
from learning_core.params import Array

INT8_COST = 0.02  # bits per character by which integers may differ on the probe


def export_language(model: Language, rank: int, alpha: float, probe: bytes, evaluate: Evaluate = by_reference) -> bytes:
    """A plain model with room for adapters of any rank, B scaled by alpha / rank whatever rank is fed.

    Compared with torch on pieces of a `probe` text, as it is and with random adapters of two ranks, to 1e-4.
    """
    exported = language_graph(model.config, weights_of(model), alpha / rank)
    data = _checked(exported)
    ids = probe_ids(probe, model.config)
    for rows in (ids, ids[:1, : model.config.context // 2]):  # batch and length are open
        compare(evaluate(data, {"ids": rows}), _wanted(model, rows))
    for other in (rank, 2 * rank):
        adapted = _random_student(model, other, alpha / rank * other)
        compare(evaluate(data, {"ids": ids, **adapter_inputs(adapted)}), _wanted(adapted, ids))
    return data


def export_int8(model: Language, rank: int, alpha: float, probe: bytes, evaluate: Evaluate = by_reference) -> bytes:
    """The same with the base in integers. Raises DewfallError where that moves the probe's bits by over `INT8_COST`.

    Also where a layer of the base is not an integer product: exporters have been seen to quantize nothing, silently.
    """
    exported = int8_graph(model.config, weights_of(model), alpha / rank)
    if integer_products(exported) != len(block_shapes(model.config.width, model.config.depth)):
        raise DewfallError("the export did not turn every layer of the base to integers; do not release this model")
    data = _checked(exported)
    ids = probe_ids(probe, model.config)
    adapted = _random_student(model, rank, alpha)
    for twin, inputs in ((model, {}), (adapted, adapter_inputs(adapted))):
        cost = _bits(evaluate(data, {"ids": ids, **inputs})[0], ids) - _bits(_wanted(twin, ids)[0], ids)
        if not abs(cost) <= INT8_COST:
            raise DewfallError(f"integers change this model by {cost:.3f} bits per character; release it in float32")
    return data


def probe_ids(probe: bytes, config: LanguageConfig) -> NDArray[np.int64]:
    """The first pieces of a text, [B, context]. Raises ValueError when it is shorter than one."""
    rows = min(PROBED, len(probe) // config.context)
    if rows == 0:
        raise ValueError(f"a probe needs at least {config.context} bytes of text")
    pieces: NDArray[np.int64] = ids_of(probe[: rows * config.context]).view(rows, config.context).numpy()
    return pieces


def _checked(exported: ModelProto) -> bytes:
    onnx.checker.check_model(exported, full_check=True)
    data: bytes = exported.SerializeToString(deterministic=True)
    return data


@torch.no_grad()
def _wanted(model: Language, ids: NDArray[np.int64]) -> list[Array]:
    seen = torch.from_numpy(ids)
    return [as_array(model(seen)), as_array(model.embed(seen))]


def _bits(logits: Array, ids: NDArray[np.int64]) -> float:
    scores = torch.from_numpy(logits[:, :-1]).flatten(0, 1)
    return torch.nn.functional.cross_entropy(scores, torch.from_numpy(ids[:, 1:]).flatten()).item() / math.log(2)


def _random_student(model: Language, rank: int, alpha: float) -> Language:
    """The model with an adapter that changes all it can."""
    student = build_student(model.config, weights_of(model), start_factors(model.config, rank, seed=rank), alpha)
    return shaken(student, seed=rank)
