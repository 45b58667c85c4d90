"""Threads that do one step again and again, until the agent stops."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

from learning_core.errors import DewfallError

log = logging.getLogger(__name__)
RETRY_S = 1.0


class Loops:
    """Daemon threads that end soon after `stop` is set, but not in the middle of a step. Nothing is saved."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self._threads: list[threading.Thread] = []

    def start(self, name: str, step: Callable[[], None], pause_s: float = 0.0, niceness: int = 0) -> None:
        """Repeat a step with a pause after each; its failure is said once and ends nothing."""
        thread = threading.Thread(target=self._repeat, args=(step, pause_s, niceness), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, within_s: float) -> None:
        """Wait for their last steps, for so long together."""
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))

    def _repeat(self, step: Callable[[], None], pause_s: float, niceness: int) -> None:
        if niceness:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)  # of this thread alone
        trouble = ""
        while not self.stop.is_set():
            try:
                step()
                trouble = ""
            except Exception as error:
                if str(error) != trouble:
                    log.warning("%s", error, exc_info=not isinstance(error, DewfallError))
                trouble = str(error)
                self.stop.wait(RETRY_S)
            self.stop.wait(pause_s)
