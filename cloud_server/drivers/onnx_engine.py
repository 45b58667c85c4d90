"""The engine that devices run graphs on, for comparing a graph with its model before it is released."""

from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from learning_core.params import Array


def by_onnxruntime(model: bytes, feed: Mapping[str, NDArray[Any]]) -> list[Array]:
    """All outputs of the graph, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # adapters are inputs with a default on purpose, which it warns of one by one
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))
