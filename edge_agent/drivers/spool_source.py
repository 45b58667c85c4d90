"""A folder into which any program drops samples: written under another name, then renamed to `<name>.safetensors`.

A file holds features [N, ...] float32, conditions [N] int64 and, if the program knows, taken_at_s [N] int64.
"""

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.values import Arrival
from learning_core.errors import Malformed, StateError
from learning_core.samples import Batch
from protos.codec import decode_tensors

SUFFIX = ".safetensors"
MAX_SAMPLES = 4096


class SpoolSource:
    """Files waiting in one folder; the folder itself is all that is saved."""

    def __init__(self, folder: Path, max_file_bytes: int) -> None:
        self._folder = folder
        self._refused = folder / "refused"
        self._max_file_bytes = max_file_bytes
        self._stuck: set[str] = set()  # files that can be neither removed nor moved
        try:
            self._refused.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"the spool {folder} cannot be made ({error.strerror}); name another folder") from error

    def pending(self) -> list[str]:
        """Names of whole files, in order; drafts start with a dot."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return sorted(name for name in names if _is_whole(name) and name not in self._stuck)

    def load(self, name: str, sample_shape: tuple[int, ...], num_conditions: int) -> Arrival | None:
        """One file, None when somebody took it away. Raises Malformed."""
        try:
            data = read_plain(self._folder / name, self._max_file_bytes)
        except FileNotFoundError:
            return None
        tensors = decode_tensors(data, self._max_file_bytes)
        batch = _batch(tensors, sample_shape, num_conditions)
        taken_at_s = tensors.get("taken_at_s", np.full(len(batch), int(time.time()), np.int64))
        if taken_at_s.shape != (len(batch),) or taken_at_s.dtype != np.int64:
            raise Malformed("taken_at_s has to be one int64 time in seconds for each sample")
        return Arrival(name, hashlib.sha256(data).hexdigest(), batch, taken_at_s)

    def done(self, name: str) -> bool:
        """Remove the file; False when that is not possible, and then it is left alone from now on."""
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError:
            self._stuck.add(name)
            return False
        return True

    def refuse(self, name: str) -> None:
        """Move the file to `refused/`, where a person can look at it."""
        try:
            (self._folder / name).replace(self._refused / name)
        except OSError:
            self._stuck.add(name)


def read_plain(path: Path, max_bytes: int) -> bytes:
    """A file that any program may have put there. Raises FileNotFoundError when it is gone, and Malformed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)  # a pipe must not hold us
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Malformed("it is not a plain file")
            if about.st_size > max_bytes:
                raise Malformed(f"it takes {about.st_size} bytes, more than the {max_bytes} allowed")
            return file.read(max_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Malformed(f"the file cannot be read ({error.strerror})") from error


def _is_whole(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def _batch(tensors: dict[str, Any], sample_shape: tuple[int, ...], num_conditions: int) -> Batch:
    if not {"features", "conditions"} <= tensors.keys() <= {"features", "conditions", "taken_at_s"}:
        raise Malformed("it has to hold features and conditions, and may hold taken_at_s")
    features, conditions = tensors["features"], tensors["conditions"]
    if features.dtype != np.float32 or features.ndim == 0 or features.shape[1:] != sample_shape:
        raise Malformed(f"features are {features.dtype} {features.shape}, not float32 [N, {sample_shape}]")
    if conditions.dtype != np.int64 or conditions.shape != features.shape[:1]:
        raise Malformed(f"conditions are {conditions.dtype} {conditions.shape}, not int64 [{len(features)}]")
    if not 1 <= len(features) <= MAX_SAMPLES:
        raise Malformed(f"it holds {len(features)} samples, not 1 to {MAX_SAMPLES}")
    if conditions.min() < 0 or conditions.max() >= num_conditions:
        raise Malformed(f"conditions have to lie within 0..{num_conditions - 1}")
    return Batch(features, conditions)
