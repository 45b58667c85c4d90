"""What an agent and its learner child say to each other: JSON lines on the child's pipes, tensors in files.

A job is a folder: `samples.safetensors`, `shared.safetensors` (where the fit starts) and `checkpoint.safetensors`,
which is the result as soon as its step is the last. The child holds nothing that is not in there.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from learning_core.errors import Malformed
from learning_core.params import Params
from learning_core.samples import Batch
from protos.codec import decode_tensors, encode_tensors

SAMPLES, SHARED, CHECKPOINT = "samples.safetensors", "shared.safetensors", "checkpoint.safetensors"
MAX_LINE_BYTES = 1 << 16
OUT_OF_MEMORY = 77  # the child's exit status when it may not have the memory it needs


@dataclass(frozen=True, slots=True)
class FitCommand:
    """Do the job in `folder` on the release in `release`, with this recipe, a checkpoint every `slice_steps`.

    `rank`: how many columns of each adapter move; the others stay as they are.
    """

    folder: str
    release: str
    slice_steps: int
    steps: int
    batch: int
    learning_rate: float
    seed: int
    rank: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after each slice. `loss`: its mean; `rss_mb`: the most memory the child has held so far."""

    step: int
    loss: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The job cannot be done, and why; the child waits for another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a fit stands; `moments` are the optimizer's, by name."""

    step: int
    adapter: Params
    moments: Params


def encode_line(message: FitCommand | Progress | Failed) -> bytes:
    tree = {"kind": type(message).__name__, **asdict(message)}
    return json.dumps(tree, allow_nan=False).encode() + b"\n"


def decode_line(line: bytes) -> FitCommand | Progress | Failed:
    """Inverse of `encode_line`. Raises Malformed."""
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("it is too long")
        tree = json.loads(line)
        kind = {each.__name__: each for each in (FitCommand, Progress, Failed)}[tree.pop("kind")]
        for name, value in tree.items():
            if type(value) is not kind.__annotations__[name]:
                raise TypeError(f"{name[:80]!r} is a {type(value).__name__}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name[:80]!r} is not finite")
        return kind(**tree)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed(f"this line is no message between agent and learner: {str(error)[:120]}") from error


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    tensors: dict[str, Any] = {"step": np.array([checkpoint.step], np.int64)}
    tensors |= {f"adapter/{name}": value for name, value in checkpoint.adapter.items()}
    return encode_tensors(tensors | {f"moments/{name}": value for name, value in checkpoint.moments.items()})


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Inverse of `encode_checkpoint`. Raises Malformed."""
    tensors = decode_tensors(data)
    step = tensors.pop("step", None)
    if step is None or step.shape != (1,) or step.dtype != np.int64 or not 0 <= step[0] < 1 << 31:
        raise Malformed("a checkpoint needs its step: one whole number")
    if odd := sorted(name for name in tensors if not name.startswith(("adapter/", "moments/"))):
        raise Malformed(f"a checkpoint holds no {odd[0][:80]!r}")
    return Checkpoint(int(step[0]), _part(tensors, "adapter/"), _part(tensors, "moments/"))


def encode_samples(batch: Batch) -> bytes:
    return encode_tensors({"features": batch.features, "conditions": batch.conditions})


def decode_samples(data: bytes) -> Batch:
    """Inverse of `encode_samples`. Raises Malformed."""
    tensors = decode_tensors(data)
    if tensors.keys() != {"features", "conditions"}:
        raise Malformed("a file of samples holds features and conditions")
    features, conditions = tensors["features"], tensors["conditions"]
    if features.dtype != np.float32 or conditions.dtype != np.int64 or conditions.ndim != 1:
        raise Malformed("features have to be float32 and conditions int64 [N]")
    if features.ndim < 2 or len(features) != len(conditions):
        raise Malformed(f"{features.shape} features do not go with {conditions.shape} conditions")
    return Batch(features, conditions)


def _part(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if any(value.dtype != np.float32 for value in part.values()):
        raise Malformed("the weights of a checkpoint have to be float32")
    return part
