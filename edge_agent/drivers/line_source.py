"""Observations from a stream of lines into the agent's spool: files of a few, no more than the agent keeps up with.

A line that cannot be used is told to whoever listens and left out; the stream goes on.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.spool_source import SUFFIX, SpoolSource
from edge_agent.observation import Expected, Observation, parse_observation
from learning_core.errors import Malformed
from protos.codec import encode_tensors
from protos.state_folder import write_atomically

MAX_FILES_WAITING = 8
MAX_LINES_WAITING = 8
FILE_SAMPLES = 64
FILE_HEADER_BYTES = 4096  # at most, and what a condition and a time take besides
FILL_WITHIN_S = 0.5  # a slow stream is not held back until a file is full
LOOK_EVERY_S = 0.1


def observe(
    stream: IO[bytes],
    spool: Path,
    max_file_bytes: int,
    expected: Expected | None,
    refuse: Callable[[int, str], None],
    waiting: Callable[[int], None],
) -> tuple[int, int]:
    """Read to the end; how many observations were handed on, and how many lines were refused.

    `refuse` is told each bad line's number and reason, `waiting` how many files wait when it first has to wait for
    the agent. Raises StateError.
    """
    source, taken, refused, told = SpoolSource(spool, max_file_bytes), 0, 0, False
    room = max_file_bytes - FILE_HEADER_BYTES
    batch: list[Observation] = []
    for number, line in _lines(stream, max_file_bytes):
        new = None
        if line is not None:
            try:
                new = _observation(line, expected, room)
            except Malformed as error:
                refused += 1
                refuse(number, str(error))
                continue
        if batch and (new is None or not _goes_with(new, batch, room)):
            while len(pending := source.pending()) >= MAX_FILES_WAITING:
                if not told:
                    waiting(len(pending))
                    told = True
                time.sleep(LOOK_EVERY_S)
            _write(spool, batch)
            taken, batch = taken + len(batch), []
        if new is not None:
            batch.append(new)
    return taken, refused


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1, without empty ones; None for a pause and at the end."""
    lines: Queue[tuple[int, bytes] | None] = Queue(MAX_LINES_WAITING)
    threading.Thread(target=_read, args=(stream, max_bytes, lines), name="lines", daemon=True).start()
    number = 0
    while True:
        try:
            line = lines.get(timeout=FILL_WITHIN_S)
        except Empty:
            yield number, None
            continue
        if line is None:
            yield number, None
            return
        number = line[0]
        if line[1].strip():
            yield line


def _read(stream: IO[bytes], max_bytes: int, lines: "Queue[tuple[int, bytes] | None]") -> None:
    """Lines into a queue that holds a few; of one that is too long only the beginning."""
    number = 0
    try:
        while line := stream.readline(max_bytes):
            number += 1
            lines.put((number, line))
            while not line.endswith(b"\n") and (line := stream.readline(max_bytes)):
                continue
    finally:
        lines.put(None)


def _observation(line: bytes, expected: Expected | None, room: int) -> Observation:
    if len(line) > room:
        raise Malformed(f"it is longer than the {room} bytes a file of the spool has room for")
    return parse_observation(line, expected)


def _goes_with(new: Observation, batch: list[Observation], room: int) -> bool:
    fits = len(batch) < FILE_SAMPLES and _size(new) * (len(batch) + 1) <= room
    return fits and new.features.shape == batch[0].features.shape


def _size(observation: Observation) -> int:
    return observation.features.nbytes + 2 * 8


def _write(spool: Path, batch: list[Observation]) -> None:
    now_s = int(time.time())
    times = [now_s if each.taken_at_s is None else each.taken_at_s for each in batch]
    tensors: dict[str, NDArray[Any]] = {
        "features": np.stack([each.features for each in batch]),
        "conditions": np.array([each.condition for each in batch], np.int64),
        "taken_at_s": np.array(times, np.int64),
    }
    name = f"observed-{time.time_ns():020d}-{os.getpid()}{SUFFIX}"  # in the order they came
    write_atomically(spool / name, encode_tensors(tensors))
