"""A few lines to write ONNX graphs with: nodes named by what they do, constants named by what they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from learning_core.params import Params

OPSET = 20  # the first with Gelu
IR_VERSION = 9


class GraphBuilder:
    """Collects nodes until `build`. Lives as long as one export and is not saved."""

    def __init__(self, weights: Params) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def adapter_input(self, name: str, shape: Sequence[int], dims: Sequence[int | str]) -> str:
        """An input that need not be given: all zeros of `shape` unless overridden with a tensor of `dims`."""
        self._constants[name] = numpy_helper.from_array(np.zeros(shape, np.float32), name)
        return self.input(name, dims)

    def weight(self, name: str) -> str:
        """One of the model's weights, under its own name, so that it can be found and replaced."""
        self._constants.setdefault(name, numpy_helper.from_array(np.array(self._weights[name], np.float32), name))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant.{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}.{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def reshape(self, value: str, *shape: int) -> str:
        return self.node("Reshape", value, self.constant(np.array(shape, np.int64)))

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        names = [f"split.{len(self._nodes)}.{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [value], names, name=names[0], axis=axis, num_outputs=parts))
        return names

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def build(self, title: str) -> onnx.ModelProto:
        graph = helper.make_graph(self._nodes, title, self._inputs, self._outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="dewfall")
        onnx.checker.check_model(model, full_check=True)
        return model
