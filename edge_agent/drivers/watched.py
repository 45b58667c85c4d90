"""Work that waits for somebody else, and is given up as soon as it may not go on."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from learning_core.errors import DewfallError

WATCH_S = 0.1
Answer = TypeVar("Answer")


class Stopped(DewfallError):
    """The decision, the deadline or a person ends the job at hand."""


class Watched:
    """Work in a thread of its own, given up as soon as it may not go on. Nothing is saved."""

    def __init__(
        self, worker: ThreadPoolExecutor, against: Callable[[], str | None], cancel: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._against = against
        self._cancel = cancel

    def run(self, work: Callable[[], Answer]) -> Answer:
        """What the work gives or raises. Raises Stopped."""
        self.check()
        future = self._worker.submit(work)
        while not wait([future], timeout=WATCH_S).done:
            if (reason := self._against()) is not None:
                while not wait([future], timeout=WATCH_S).done:
                    self._cancel()  # again and again: the call may not have begun when it was cancelled first
                raise Stopped(reason)
        return future.result()

    def sleep(self, seconds: float) -> None:
        """Raises Stopped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, WATCH_S))

    def check(self) -> None:
        if (reason := self._against()) is not None:
            raise Stopped(reason)
