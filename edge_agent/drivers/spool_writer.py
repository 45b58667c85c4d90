"""Observations into the agent's spool: files of a few, no more than the agent keeps up with."""

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.spool_source import SPANS, SUFFIX, SpoolSource
from edge_agent.observation import Observation
from learning_core.errors import Malformed
from protos.codec import encode_tensors
from protos.state_folder import write_atomically

OBSERVED = "observed-"  # with which the names of its files begin
MAX_FILES_WAITING = 8
FILE_SAMPLES = 64
FILE_HEADER_BYTES = 4096  # at most, and what a condition, a time and an id take besides


class SpoolWriter:
    """Writes for one program, or one thread of it. Saved as the files it has written."""

    _count = itertools.count()  # no two files of this process have one name, however coarse the clock

    def __init__(self, spool: Path, max_file_bytes: int) -> None:
        self._spool = spool
        self._source = SpoolSource(spool, max_file_bytes)
        self.room = max_file_bytes - FILE_HEADER_BYTES

    def waiting(self) -> int:
        """How many files the agent has still to take in."""
        return len(self._source.pending())

    def is_full(self) -> bool:
        return self.waiting() >= MAX_FILES_WAITING

    def check(self, observation: Observation) -> None:
        """Raises Malformed for one that no file of the spool has room for."""
        if size_of(observation) > self.room:
            raise Malformed(f"it takes {size_of(observation)} bytes, more than the {self.room} a file has room for")

    def fits(self, new: Observation, batch: Sequence[Observation]) -> bool:
        """Whether an observation can go into one file with these."""
        if len(batch) >= FILE_SAMPLES or sum(map(size_of, (new, *batch))) > self.room:
            return False
        return not batch or _kind(new) == _kind(batch[0])

    def write(self, batch: Sequence[Observation]) -> None:
        """One file of observations that fit together. Raises StateError."""
        now_s = int(time.time())
        tensors: dict[str, NDArray[Any]] = {
            "conditions": np.array([each.condition for each in batch], np.int64),
            "taken_at_s": np.array([now_s if each.taken_at_s is None else each.taken_at_s for each in batch], np.int64),
            "ids": np.array([each.id for each in batch], np.int64),
        }
        if (span := batch[0].span) is not None:
            tensors["span"] = np.array([SPANS.index(span)])
        arrays = [each.raw for each in batch if not isinstance(each.raw, str)]
        if arrays:
            tensors["features"] = np.stack(arrays)
        else:
            texts = [each.raw.encode("utf-8") for each in batch if isinstance(each.raw, str)]
            tensors["texts"] = np.frombuffer(b"".join(texts), np.uint8)
            tensors["lengths"] = np.array([len(text) for text in texts], np.int64)
        name = f"{OBSERVED}{time.time_ns():020d}-{os.getpid()}-{next(self._count)}{SUFFIX}"  # in the order they came
        write_atomically(self._spool / name, encode_tensors(tensors))


def size_of(observation: Observation) -> int:
    raw = observation.raw
    return (4 * len(raw) if isinstance(raw, str) else raw.nbytes) + 4 * 8


def _kind(observation: Observation) -> tuple[Any, ...]:
    raw = observation.raw
    return ("text",) if isinstance(raw, str) else (raw.dtype, raw.shape, observation.span)
