"""Write an ONNX graph node by node, with the names we want."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from learning_core.params import Array, Params

OPSET = 20  # the first with Gelu
IR_VERSION = 9
CONSTANT = "constant."  # numbers that are no weights are named so


class GraphWriter:
    """Nodes in the order they are computed, and the numbers they need; lives while one graph is written."""

    def __init__(self, weights: Params) -> None:
        self.nodes: list[Any] = []
        self.optional: list[Any] = []
        self.initializers: list[Any] = []
        self.constants: dict[bytes, str] = {}
        for name, value in weights.items():
            self.number(name, value)

    def number(self, name: str, value: NDArray[Any]) -> str:
        """A weight of any type under a name of its own."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def constant(self, value: Sequence[int] | Array) -> str:
        """Numbers that are no weights, integers as int64; equal ones are kept once."""
        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        key = f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
        if key not in self.constants:
            self.constants[key] = self.number(f"{CONSTANT}{len(self.constants)}", array)
        return self.constants[key]

    def default(self, name: str, dims: Sequence[int | str], value: Array) -> str:
        """An input that may be left out, and then is `value`."""
        self.optional.append(tensor(name, dims))
        return self.number(name, value)

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Add one node; returns the name of its result."""
        return self._node(kind, inputs, [result or f"{kind}_{len(self.nodes)}"], attributes)[0]

    def outputs(self, kind: str, whole: str, count: int) -> list[str]:
        """Add a node that gives several results; returns their names."""
        return self._node(kind, (whole,), [f"{kind}_{len(self.nodes)}_{part}" for part in range(count)], {})

    def split(self, whole: str, parts: int, axis: int) -> list[str]:
        results = [f"Split_{len(self.nodes)}_{part}" for part in range(parts)]
        return self._node("Split", (whole,), results, {"axis": axis, "num_outputs": parts})

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> ModelProto:
        graph = helper.make_graph(self.nodes, name, [*inputs, *self.optional], outputs, self.initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, producer_name="dewfall", opset_imports=opsets, ir_version=IR_VERSION)

    def _node(self, kind: str, inputs: Sequence[str], results: list[str], attributes: dict[str, Any]) -> list[str]:
        self.nodes.append(helper.make_node(kind, inputs, results, name=results[0], **attributes))
        return results


def tensor(name: str, dims: Sequence[int | str], integers: bool = False) -> Any:
    """Declaration of an input or output; a dimension with a name may vary."""
    return helper.make_tensor_value_info(name, TensorProto.INT64 if integers else TensorProto.FLOAT, dims)
