"""What programs hand to the running agent, through whichever door, on its way into the spool."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.drivers.spool_writer import MAX_FILES_WAITING, SpoolWriter
from edge_agent.observation import Expected, Observation, observation_of
from learning_core.errors import Malformed

RETRY_AFTER_S = 0.5


class Inbox:
    """Any thread may bring observations, one at a time. Saved as the files it has written."""

    def __init__(self, spool: Path, max_file_bytes: int, expected: Callable[[], Expected | None]) -> None:
        self._writer = SpoolWriter(spool, max_file_bytes)
        self._expected = expected
        self._turn = threading.Lock()

    def take(self, trees: Sequence[Any]) -> Mapping[str, Any]:
        """Observations as the JSON of a line each.

        `done` of them, from the first, need not be sent again: they are in the spool, or refused for a reason.
        `wait`: how many files wait and how long to be patient, when the rest has to come again. Raises StateError.
        """
        with self._turn:
            expected, refused = self._expected(), list[dict[str, Any]]()
            batch, first, taken = list[Observation](), 0, 0
            for index, tree in enumerate((*trees, None)):  # the last is none, and only says that all were seen
                is_end = index == len(trees)
                try:
                    new = None if is_end else self._read(tree, expected)
                except Malformed as error:
                    refused.append({"index": index, "reason": str(error)})
                    continue
                if batch and (new is None or not self._writer.fits(new, batch)):
                    if (files := self._writer.waiting()) >= MAX_FILES_WAITING:
                        settled = [each for each in refused if each["index"] < first]
                        wait = {"files": files, "retry_after_s": RETRY_AFTER_S}
                        return {"done": first, "taken": taken, "refused": settled, "wait": wait}
                    self._writer.write(batch)
                    taken, batch = taken + len(batch), []
                if new is not None:
                    first = first if batch else index
                    batch.append(new)
            return {"done": len(trees), "taken": taken, "refused": refused, "wait": None}

    def _read(self, tree: Any, expected: Expected | None) -> Observation:
        observation = observation_of(tree, expected)
        self._writer.check(observation)
        return observation
