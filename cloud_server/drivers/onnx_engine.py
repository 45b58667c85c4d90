"""The engine that devices run graphs on, for comparing a graph with its model before it is released."""

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from learning_core.params import Array

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is loaded: it keeps a diary for its maker

import onnxruntime


def by_onnxruntime(model: bytes, feed: Mapping[str, NDArray[Any]]) -> list[Array]:
    """All outputs of the graph, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # adapters are inputs with a default on purpose, which it warns of one by one
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))
