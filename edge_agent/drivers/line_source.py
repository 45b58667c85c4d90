"""Observations from a stream of lines, or of anything, into the agent's spool, no faster than it takes them in.

An item that cannot be used is told to whoever listens and left out; the stream goes on.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import IO, TypeVar

from edge_agent.drivers.spool_writer import SpoolWriter
from edge_agent.observation import Expected, Observation, parse_observation
from learning_core.errors import Malformed

MAX_ITEMS_WAITING = 8
FILL_WITHIN_S = 0.5  # a slow stream is not held back until a file is full
LOOK_EVERY_S = 0.1
Item = TypeVar("Item")


def observe(
    stream: IO[bytes],
    spool: Path,
    max_file_bytes: int,
    expected: Expected | None,
    refuse: Callable[[int, str], None],
    waiting: Callable[[int], None],
) -> tuple[int, int]:
    """Read lines to the end; how many observations were handed on, and how many lines were refused.

    `refuse` is told each bad line's number and reason, `waiting` how many files wait when it first has to wait for
    the agent. Raises StateError.
    """
    writer = SpoolWriter(spool, max_file_bytes)

    def parse(line: bytes) -> Observation | None:
        if not line.strip():
            return None
        if len(line) > writer.room:
            raise Malformed(f"it is longer than the {writer.room} bytes a file of the spool has room for")
        return parse_observation(line, expected)

    return hand_on(_lines(stream, max_file_bytes), parse, writer, refuse, waiting)


def hand_on(
    items: Iterable[Item],
    parse: Callable[[Item], Observation | None],
    writer: SpoolWriter,
    refuse: Callable[[int, str], None],
    waiting: Callable[[int], None],
) -> tuple[int, int]:
    """The same for any items; `parse` raises Malformed for a bad one and gives None for one that is nothing."""
    taken, refused, told = 0, 0, False
    batch: list[Observation] = []
    for number, item in _paced(items):
        new = None
        if item is not None:
            try:
                if (new := parse(item)) is None:
                    continue
            except Malformed as error:
                refused += 1
                refuse(number, str(error))
                continue
        if batch and (new is None or not writer.fits(new, batch)):
            while writer.is_full():
                if not told:
                    waiting(writer.waiting())
                    told = True
                time.sleep(LOOK_EVERY_S)
            writer.write(batch)
            taken, batch = taken + len(batch), []
        if new is not None:
            batch.append(new)
    return taken, refused


def _paced(items: Iterable[Item]) -> Iterator[tuple[int, Item | None]]:
    """Items with their numbers from 1; None for a pause and at the end. What the items raise is raised at the end."""
    queue: Queue[tuple[int, Item] | None] = Queue(MAX_ITEMS_WAITING)
    failed: list[BaseException] = []
    threading.Thread(target=_read, args=(items, queue, failed), name="items", daemon=True).start()
    number = 0
    while True:
        try:
            numbered = queue.get(timeout=FILL_WITHIN_S)
        except Empty:
            yield number, None
            continue
        if numbered is None:
            yield number, None
            break
        number = numbered[0]
        yield numbered
    if failed:
        raise failed[0]


def _read(items: Iterable[Item], queue: "Queue[tuple[int, Item] | None]", failed: list[BaseException]) -> None:
    try:
        for numbered in enumerate(items, start=1):
            queue.put(numbered)
    except BaseException as error:
        failed.append(error)
    finally:
        queue.put(None)


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """Lines; of one that is too long only the beginning."""
    while line := stream.readline(max_bytes):
        yield line
        while not line.endswith(b"\n") and (line := stream.readline(max_bytes)):
            continue
