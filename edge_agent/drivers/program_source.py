"""Runs a person's own source as a child process: started when there is a release, again some time after it ended.

What goes wrong in it is said once in the log and shown in `status`; it never stops the agent.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from edge_agent.config import Source
from edge_agent.ports import Release

log = logging.getLogger(__name__)
LOOK_S = 0.2
NOT_FOR_IT = ("DEWFALL", "NOTIFY_", "WATCHDOG_")  # our own settings, tokens among them; the service manager's
MAX_TOLD = 100
LAST_WORDS = 5  # lines of standard error that are repeated in the log
LONGEST_LINE = 4096


class ProgramSource:
    """At most one child at a time. Nothing is saved: what the child has handed on lies in the spool."""

    def __init__(self, name: str, spool: Path, source: Source, release: Callable[[], Release | None]) -> None:
        self._name = name
        self._spool = spool
        self._source = source
        self._release = release
        self._closed = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._told: set[str] = set()
        self._refused = 0
        self._trouble = ""

    def describe(self) -> Mapping[str, Any]:
        """How it is, as JSON; empty where no program is set."""
        if self._source.program is None:
            return {}
        child = self._child
        runs = child is not None and child.poll() is None
        return {"program": self._source.program, "runs": runs, "refused": self._refused, "trouble": self._trouble}

    def step(self) -> None:
        """One life of the child, then a pause. Returns soon when there is nothing to run, or nothing to run for."""
        orders = self._orders()
        if orders is None:
            self._closed.wait(LOOK_S)
            return
        if self._live(orders):
            self._closed.wait(self._source.retry_s)

    def close(self) -> None:
        """Kill the child and start none any more."""
        self._closed.set()
        self._kill()

    def _orders(self) -> dict[str, Any] | None:
        release, source = self._release(), self._source
        if source.program is None or release is None or self._closed.is_set():
            return None
        manifest = release.manifest
        context = {
            "name": self._name,
            "family": manifest.family,
            "sample_shape": release.sample_shape,
            "num_conditions": manifest.num_conditions,
            "known_conditions": manifest.known_conditions,
        }
        return {
            "program": source.program,
            "path": str(source.program_path) if source.program_path else None,
            "spool": str(self._spool),
            "max_file_bytes": source.max_file_bytes,
            "conversions": asdict(source.conversions()),
            "context": context,
            "parent": os.getpid(),
        }

    def _live(self, orders: dict[str, Any]) -> bool:
        """Until the child ends; False when it was ended for another release, and may begin again at once."""
        said: SimpleQueue[bytes | None] = SimpleQueue()
        last = deque[bytes](maxlen=LAST_WORDS)
        child = self._start(orders)
        for stream, word in ((child.stdout, said.put), (child.stderr, last.append)):
            threading.Thread(target=_listen, args=(stream, word, said.put), name="program", daemon=True).start()
        ends, explained = 2, False
        while ends and not self._closed.is_set():
            is_dead = child.poll() is not None
            try:
                line = said.get(timeout=LOOK_S)
            except Empty:
                if is_dead:  # what it started may hold its standard error open for as long as it likes
                    break
                if self._orders() != orders:
                    self._kill()
                    return False
                continue
            if line is None:
                ends -= 1
            else:
                explained |= self._hear(line)
        code = self._kill()
        if not self._closed.is_set() and not explained:
            words = b" | ".join(last).decode("utf-8", "replace")
            self._say(f"{self._source.program} ended with {code}{': ' + words if words else ''}")
        return True

    def _start(self, orders: dict[str, Any]) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            [sys.executable, "-m", "edge_agent.producer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_IT)},
            start_new_session=True,
        )
        self._child = child
        if child.stdin is not None:
            with contextlib.suppress(OSError), child.stdin as orders_in:  # one that died already says so by its end
                orders_in.write(json.dumps(orders).encode() + b"\n")
        if self._closed.is_set():  # while it was being started
            self._kill()
        return child

    def _hear(self, line: bytes) -> bool:
        """One of the child's own lines; whether it says why the child ends."""
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return False
        match told:
            case {"refused": int(number), "reason": str(reason)}:
                self._refused += 1
                self._say(f"{self._source.program}: item {number} is refused: {reason}", about=reason)
            case {"failed": str(why)}:
                self._say(f"{self._source.program} failed and is started again in {self._source.retry_s:g} s: {why}")
                return True
            case {"ended": True}:
                self._trouble = ""
                return True
        return False

    def _say(self, sentence: str, about: str | None = None) -> None:
        """Once for everything there is to say, however often it happens."""
        self._trouble = sentence
        key = about or sentence
        if key not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(key)
            log.warning("%s", sentence)

    def _kill(self) -> int | None:
        """End the child with all that it started; its exit code."""
        child, self._child = self._child, None
        if child is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait()


def _listen(stream: IO[bytes] | None, word: Callable[[bytes], None], end: Callable[[None], None]) -> None:
    """Lines, cut where they are too long, until the end; then the end itself."""
    if stream is not None:
        with stream:
            while line := stream.readline(LONGEST_LINE):
                word(line.strip())
    end(None)
