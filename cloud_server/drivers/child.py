"""A child process on a leash: it says how far it is in JSON lines, and dies with the process that started it."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO

from cloud_server.ports import Report

_STOP_S = 2.0
_ORPHANED = 75


class Child:
    """One run of `python -m cloud_server ...`. Not saved: what it has done stands on its shelf."""

    def __init__(self, arguments: Sequence[str], report: Report, on_end: Callable[[], None] = lambda: None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cloud_server", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self._last_words: deque[str] = deque(maxlen=20)
        self._readers = [
            threading.Thread(target=self._follow, args=(self._process.stdout, report, on_end), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        return code

    def last_words(self) -> str:
        """The end of what it wrote to stderr, for people."""
        return "".join(self._last_words).strip()[-500:]

    def stop(self) -> None:
        """Let go of the leash; kill it when it stays."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _follow(self, lines: IO[str], report: Report, on_end: Callable[[], None]) -> None:
        for line in lines:
            try:
                news = json.loads(line)
                report(str(news["step"]), int(news["done"]), int(news["of"]))
            except (ValueError, KeyError, TypeError):
                self._last_words.append(line)
        self._process.wait()
        on_end()

    def _listen(self, lines: IO[str]) -> None:
        self._last_words.extend(lines)


def hold_leash() -> None:
    """Called in a child: leave as soon as whoever holds the other end of stdin is gone, even if by kill -9."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(_ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def print_progress(step: str, done: int, of: int) -> None:
    """A `Report` for the process at the other end of the leash."""
    if done == of or done % 10 == 0:
        sys.stdout.write(json.dumps({"step": step, "done": done, "of": of}) + "\n")
        sys.stdout.flush()
