"""Linear layers as integer products in an ONNX graph: one scale for each output, and one for each batch of tokens.

Dynamic quantization: the tokens' range is found as they come, so nothing has to be calibrated. Weights have seven bits.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from learning_core.models.onnx_writer import GraphWriter
from learning_core.params import Array, Params

Linear = Callable[[str, str], str]
"""(path of a layer, name of tokens [B*T, in]) -> name of what the base's layer makes of them, [B*T, out]."""

LARGEST = 63  # seven bits: with eight, processors without VNNI add two products in 16 bits and saturate, silently
LARGEST_LOOKED_UP = 127  # of a table nothing is multiplied by


def integer_linear(write: GraphWriter, weights: Params) -> Linear:
    """Layers whose float weights are not in the graph. Those that see the same tokens share their integers."""
    seen: dict[str, list[str]] = {}

    def linear(path: str, flat: str) -> str:
        if flat not in seen:
            seen[flat] = write.outputs("DynamicQuantizeLinear", flat, 3)
        tokens, tokens_scale, tokens_zero = seen[flat]
        whole, scales = quantised(weights[f"{path}.weight"])
        matrix = write.number(f"{path}.weight_int8", whole.T)
        product = write.op("Cast", write.op("MatMulInteger", tokens, matrix, tokens_zero), to=1)
        unit = write.op("Mul", tokens_scale, write.number(f"{path}.weight_scale", scales))
        return write.op("Add", write.op("Mul", product, unit), f"{path}.bias")

    return linear


def integer_rows(write: GraphWriter, name: str, table: Array, ids: str) -> str:
    """Rows of a table [V, d] that is kept in integers: ids [B, T] -> [B, T, d]."""
    whole, scales = quantised(table, LARGEST_LOOKED_UP)
    rows = write.op("Cast", write.op("Gather", write.number(f"{name}_int8", whole), ids, axis=0), to=1)
    units = write.op("Gather", write.number(f"{name}_scale", scales[:, None]), ids, axis=0)
    return write.op("Mul", rows, units)


def quantised(weight: Array, largest: int = LARGEST) -> tuple[NDArray[np.int8], Array]:
    """Whole numbers [out, in] and what one of them is worth in each row [out], so that their product is the weight."""
    reach = np.abs(weight).max(axis=1)
    scales = np.where(reach > 0, reach, 1).astype(np.float32) / np.float32(largest)
    return np.rint(weight / scales[:, None]).astype(np.int8), scales


def integer_products(graph: ModelProto) -> int:
    """How many products of the graph are of integers."""
    return sum(node.op_type == "MatMulInteger" for node in graph.graph.node)
