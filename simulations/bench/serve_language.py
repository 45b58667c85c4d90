"""How much faster a language model answers with its base in integers, an adapter on it in both cases.

Real ONNX Runtime sessions of one thread, called in turns. Weights are random: integers take the same time whatever
they say; what they cost in quality is measured where models are exported.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from learning_core.models.integer_layers import integer_products
from learning_core.models.language import BYTES, LanguageConfig, new_language
from learning_core.models.language_graph import int8_graph, language_graph
from learning_core.models.weights import weights_of

RANK, ALPHA, DEPTH = 8, 16.0, 6
HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Size:
    """A model and how much it reads at once."""

    width: int
    length: int


@dataclass(frozen=True, slots=True)
class Turns:
    """Milliseconds of a core for each call, in pairs that took turns: what a call takes when nobody else is there."""

    size: Size
    float_ms: tuple[float, ...]
    int8_ms: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(whole / fast for whole, fast in zip(self.float_ms, self.int8_ms, strict=True))


def time_sizes(
    widths: Sequence[int], lengths: Sequence[int], pairs: int, progress: Callable[[str], None]
) -> list[Turns]:
    """Every width at every length."""
    found = []
    for width in widths:
        config = LanguageConfig(width=width, depth=DEPTH, heads=width // HEAD_WIDTH or 1, context=max(lengths))
        sessions = _sessions(config)
        adapter = _adapter(sessions[0], width)
        for length in lengths:
            progress(f"a language model {width} wide reads {length} bytes")
            found.append(_time(sessions, adapter, Size(width, length), pairs))
    return found


def _sessions(config: LanguageConfig) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    weights = weights_of(new_language(config, seed=0))
    graphs = language_graph(config, weights, ALPHA / RANK), int8_graph(config, weights, ALPHA / RANK)
    assert integer_products(graphs[0]) == 0 < integer_products(graphs[1]), "the integer graph holds no integers"
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    of_floats, of_integers = (
        ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"]) for graph in graphs
    )
    return of_floats, of_integers


def _adapter(session: ort.InferenceSession, width: int) -> dict[str, ort.OrtValue]:
    rng = np.random.default_rng(width)
    return {
        each.name: ort.OrtValue.ortvalue_from_numpy(
            (0.02 * rng.standard_normal([RANK if isinstance(size, str) else size for size in each.shape])).astype(
                np.float32
            )
        )
        for each in session.get_overridable_initializers()
    }


def _time(
    sessions: tuple[ort.InferenceSession, ort.InferenceSession],
    adapter: dict[str, ort.OrtValue],
    size: Size,
    pairs: int,
) -> Turns:
    ids = np.random.default_rng(0).integers(0, BYTES, (1, size.length))
    feeds = {"ids": ort.OrtValue.ortvalue_from_numpy(ids), **adapter}
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(pairs + 2):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.thread_time()
            sessions[which].run_with_ort_values(["logits"], feeds)
            took[which].append((time.thread_time() - began) * 1e3)
    return Turns(size, tuple(took[0][2:]), tuple(took[1][2:]))  # the first two only warm up
