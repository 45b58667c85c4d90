"""A release's student and judge in ONNX Runtime: one thread, no spinning, and nothing prepared twice.

Adapter tensors are bound once, and x, t, y and the velocity are buffers that every step writes into: measured against
feeding them to each run (+4 %), prebuilt values (+20 %) and ONNX Runtime's own adapter files (+2 %), this is as fast as
the bare session without any adapter. Bound buffers for single samples are kept for the next request, whoever asks it;
no two threads ever hold the same ones, so an engine may be used from any number of them.
"""

import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_agent.examination import golden_set
from edge_agent.ports import Release
from learning_core.errors import Malformed
from learning_core.params import Array, Params
from protos.codec import decode_params, decode_tensors
from protos.release import GOLDEN, JUDGE_GRAPH, START, STUDENT_GRAPH, Manifest

EMBED_TIME = 0.5  # where on the way from noise to sample the student is asked what a sample is about
ROWS_AT_ONCE = 16  # bounds the memory one request can take; more at once is no faster on one core
KEPT = 4  # bound buffers of each shape: for so many that ask at the same moment
INPUTS = ("x", "t", "y")


@dataclass(frozen=True, slots=True)
class _Bench:
    """Buffers of one request at a time, and the binding that knows their addresses. x, velocity: [B, C, H, W]."""

    x: Array
    t: Array
    y: NDArray[np.int64]
    velocity: Array
    bound: ort.IOBinding


class OnnxEngine:
    """A student with one adapter, or none. Never changes, so any thread may use it at any time."""

    def __init__(self, session: ort.InferenceSession, null_condition: int, adapter: Mapping[str, ort.OrtValue]) -> None:
        self.session = session
        self._null = null_condition
        self._adapter = adapter
        self._free: dict[tuple[int, ...], deque[_Bench]] = {}

    @classmethod
    def load(cls, path: Path, null_condition: int) -> "OnnxEngine":
        """Raises Malformed when the graph is not a student's."""
        session = open_session(path)
        inputs = tuple(each.name for each in session.get_inputs())
        outputs = {each.name for each in session.get_outputs()}
        if set(inputs) != set(INPUTS) or not {"velocity", "embedding"} <= outputs:
            raise Malformed(f"{path} is no student: it takes {inputs[:6]} and gives {sorted(outputs)[:6]}")
        return cls(session, null_condition, {})

    def adapted(self, inputs: Params | None) -> "OnnxEngine":
        """The same student with another adapter. A partial one would silently be served as it is, so names are exact.

        Raises Malformed.
        """
        if inputs is None:
            return OnnxEngine(self.session, self._null, {})
        places = {each.name: each.shape for each in self.session.get_overridable_initializers()}
        if odd := sorted(places.keys() ^ inputs.keys()):
            raise Malformed(f"this adapter does not fit the student: they differ at {', '.join(odd[:4])}")
        for name, value in inputs.items():
            if not _fits(value.shape, places[name]):
                raise Malformed(f"adapter input {name!r} has shape {value.shape}, the student takes {places[name]}")
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value, np.float32))
            for name, value in inputs.items()
        }
        return OnnxEngine(self.session, self._null, values)

    def embed(self, features: Array) -> Array:
        """[B, C, H, W] -> [B, d], by the base alone, so that embeddings stay comparable while adapters change."""
        rows = len(features)
        time, null = np.full(rows, EMBED_TIME, np.float32), np.full(rows, self._null, np.int64)
        feeds = {"x": np.ascontiguousarray(features, np.float32), "t": time, "y": null}
        embedding: Array = self.session.run(["embedding"], feeds)[0]
        return embedding

    def generate(self, noise: Array, conditions: NDArray[np.int64], steps: int, guidance: float) -> Array:
        """Samples from noise by Euler's method, [B, C, H, W]; guidance 1 takes one pass a step, any other two at once.

        Rectified flow, Liu et al. 2022 (arXiv:2209.03003); guidance, Ho and Salimans 2022 (arXiv:2207.12598).
        """
        starts = range(0, len(noise), ROWS_AT_ONCE)
        pieces = [slice(start, start + ROWS_AT_ONCE) for start in starts]
        return np.concatenate([self._piece(noise[piece], conditions[piece], steps, guidance) for piece in pieces])

    def _piece(self, noise: Array, conditions: NDArray[np.int64], steps: int, guidance: float) -> Array:
        rows, twice = len(noise), guidance != 1.0
        shape = (rows * (1 + twice), *noise.shape[1:])
        bench = self._bench(shape)
        x, velocity = bench.x, bench.velocity
        sample, with_label, without = x[:rows], velocity[:rows], velocity[rows:]
        x[:rows], bench.y[:rows] = noise, conditions
        if twice:
            x[rows:], bench.y[rows:] = noise, self._null
        for step in range(steps):
            bench.t.fill(step / steps)
            self.session.run_with_iobinding(bench.bound)
            if twice:
                with_label -= without
                with_label *= np.float32(guidance)
                with_label += without
            with_label /= np.float32(steps)
            sample += with_label
            if twice:
                x[rows:] = sample
        drawn = sample.copy()
        if rows == 1:
            self._free.setdefault(shape, deque(maxlen=KEPT)).append(bench)
        return drawn

    def _bench(self, shape: tuple[int, ...]) -> _Bench:
        """One that nobody holds, or a new one."""
        with contextlib.suppress(KeyError, IndexError):
            return self._free[shape].pop()
        x, t, y = np.empty(shape, np.float32), np.empty(shape[0], np.float32), np.empty(shape[0], np.int64)
        velocity = np.empty_like(x)
        return _Bench(x, t, y, velocity, self._bound({"x": x, "t": t, "y": y}, velocity))

    def _bound(self, buffers: dict[str, NDArray[Any]], velocity: Array) -> ort.IOBinding:
        """Inputs and output by address: whoever calls keeps the buffers for as long as the binding is used."""
        binding = self.session.io_binding()
        for name, value in self._adapter.items():
            binding.bind_ortvalue_input(name, value)
        for name, buffer in buffers.items():
            binding.bind_input(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        binding.bind_output("velocity", "cpu", 0, velocity.dtype, velocity.shape, velocity.ctypes.data)
        return binding


class OnnxJudge:
    """A release's judge."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)

    def look(self, samples: Array) -> tuple[Array, Array]:
        """[N, C, H, W] -> logits [N, K], features [N, f]."""
        pieces = [
            self._session.run(["logits", "features"], {"x": samples[start : start + ROWS_AT_ONCE]})
            for start in range(0, len(samples), ROWS_AT_ONCE)
        ]
        return np.concatenate([logits for logits, _ in pieces]), np.concatenate([features for _, features in pieces])


def load_release(folder: Path, manifest: Manifest, digest: str) -> Release:
    """Load a release that has been verified. Raises Malformed when its files are not what a release holds."""
    graphs = {STUDENT_GRAPH, *(each.graph for each in manifest.variants if not each.is_remote)}
    engines = {graph: OnnxEngine.load(folder / graph, manifest.num_conditions) for graph in sorted(graphs)}
    golden = golden_set(decode_tensors((folder / GOLDEN).read_bytes()), manifest)
    start = decode_params((folder / START).read_bytes())
    return Release(manifest, digest, str(folder), engines, OnnxJudge(folder / JUDGE_GRAPH), golden, start)


def open_session(path: Path) -> ort.InferenceSession:
    """A session that takes one core when it is asked and none when it is not. Raises Malformed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # it warns of every adapter input that it has a default
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no class
        raise Malformed(f"{path} cannot be loaded as a model: {str(error)[:160]}") from error


def _fits(shape: tuple[int, ...], place: list[int | str]) -> bool:
    """Whether a tensor goes where the graph leaves some sizes open (the rank)."""
    return len(shape) == len(place) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(shape, place, strict=True)
    )
