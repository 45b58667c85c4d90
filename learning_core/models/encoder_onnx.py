"""An encoder as ONNX bytes that answer as torch does: every export is compared before it is handed out.

From Hugging Face weights node by node: nothing is traced, so nothing is folded, renamed or fixed to a length.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from learning_core.errors import ConfigError, DewfallError
from learning_core.models import peft_door
from learning_core.models.encoder import UNUSED, Encoder, batch_of, mean_pool, word_and_meaning
from learning_core.models.encoder_graph import build_of, encoder_graph, int8_encoder_graph, linear_layers
from learning_core.models.integer_layers import integer_products
from learning_core.models.onnx_export import PROBED, TOLERANCE, Evaluate, Feed, by_reference
from learning_core.models.peft_door import Plan
from learning_core.models.weights import as_array, weights_of
from learning_core.params import Array, Params

INT8_COST = 0.03  # 1 - cosine between an embedding of the probe and what integers make of it
CHANGE = 0.05  # of the random B that adapters are compared with: they change a layer by about a sixth


def export_encoder(encoder: Encoder, plan: Plan, probe: Sequence[str], evaluate: Evaluate = by_reference) -> bytes:
    """A plain encoder with room for adapters of any rank on the plan's layers, and its pooling.

    Compared with torch on some `probe` texts, together and one alone, as it is and with random adapters of two ranks,
    to 1e-4 of the largest value. Raises ConfigError where no graph can be written, DewfallError where it would differ.
    """
    data = _checked(encoder_graph(build_of(encoder.module), *_parts(encoder, plan)))
    for module, ids, mask, adapter in _cases(encoder, plan, probe):
        given = evaluate(data, _feed(ids, mask, adapter))
        apart = max(
            float(np.abs(one - other).max() / np.abs(other).max())
            for one, other in zip(given, _wanted(module, ids, mask), strict=True)
        )
        if not apart <= TOLERANCE:
            raise DewfallError(f"the exported encoder and torch differ by {apart:.2g}; do not release this model")
    return data


def export_int8_encoder(encoder: Encoder, plan: Plan, probe: Sequence[str], evaluate: Evaluate = by_reference) -> bytes:
    """The same with the base in integers. Raises DewfallError where that turns an embedding by over `INT8_COST`.

    Also where a layer of the base is not an integer product: exporters have been seen to quantize nothing, silently.
    """
    build = build_of(encoder.module)
    exported = int8_encoder_graph(build, *_parts(encoder, plan))
    if integer_products(exported) != len(linear_layers(build)):
        raise DewfallError("the export did not turn every layer of the base to integers; do not release this model")
    data = _checked(exported)
    for module, ids, mask, adapter in _cases(encoder, plan, probe):
        given, wanted = evaluate(data, _feed(ids, mask, adapter))[0], _wanted(module, ids, mask)[0]
        turned = 1 - float((given * wanted).sum(axis=1).min())
        if not turned <= INT8_COST:
            raise DewfallError(f"integers turn this encoder's embeddings by {turned:.3f}; release it in float32")
    return data


Case = tuple[nn.Module, Tensor, Tensor, Params]


def _cases(encoder: Encoder, plan: Plan, probe: Sequence[str]) -> list[Case]:
    """A model in torch, ids and mask [B, T], and what to feed the graph for it to answer alike."""
    if not probe:
        raise ValueError("an export is compared on texts, and there are none")
    tokens = encoder.tokenize(probe[:PROBED])
    ids, mask = batch_of(tokens, encoder.padding)
    cases: list[Case] = [
        (encoder.module, ids, mask, {}),
        (encoder.module, *batch_of(tokens[:1], encoder.padding), {}),
    ]
    for rank in (plan.rank, 2 * plan.rank):
        twin = copy.deepcopy(encoder.module)
        one_rank = replace(plan, rank=rank, ranks=MappingProxyType({}), learned=peft_door.Learned.BOTH)
        both = peft_door.adapted(twin, {"probe": one_rank})
        rng = np.random.default_rng(rank)
        adapter = {
            name: value if name.endswith("lora_A") else rng.normal(0, CHANGE, value.shape).astype(np.float32)
            for name, value in peft_door.read_adapter(both, "probe").items()
        }
        peft_door.write_adapter(both, "probe", adapter)
        cases.append((twin, ids, mask, adapter))
    return cases


def _parts(encoder: Encoder, plan: Plan) -> tuple[Params, Sequence[str], float]:
    """What both graphs are written from. Raises ConfigError, Malformed."""
    weights = {name: value for name, value in weights_of(encoder.module).items() if not name.startswith(UNUSED)}
    if any(".lora_" in name for name in weights):
        raise ConfigError("export the encoder without its adapters: they are fed to the graph")
    peft_door.factor_shapes(encoder.module, plan)  # refuses what is no linear layer
    if odd := sorted(set(plan.layers) - set(linear_layers(build_of(encoder.module)))):
        raise ConfigError(f"{odd[0]} takes no adapter in the graph: it is not part of what is computed")
    return weights, plan.layers, plan.scale


def _checked(exported: ModelProto) -> bytes:
    onnx.checker.check_model(exported, full_check=True)
    data: bytes = exported.SerializeToString(deterministic=True)
    return data


def _feed(ids: Tensor, mask: Tensor, adapter: Params) -> Feed:
    return {"ids": ids.numpy(), "mask": mask.numpy(), **adapter}


@torch.no_grad()
def _wanted(module: nn.Module, ids: Tensor, mask: Tensor) -> list[Array]:
    states = module(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    return [as_array(pool(states, mask)) for pool in (mean_pool, word_and_meaning)]
