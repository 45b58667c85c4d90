"""Asks the places of a device in a thread of its own, so that nobody waits for a place that does not answer.

A read of sysfs can hang for ever (Jetson zones of absent accelerators, firmware that sleeps), and so can a program
(Termux). Who does not answer in time keeps its last good texts and their age, and is not asked again before it has
answered. One thread asks all places in turn, since threads cost more than reads; while it hangs, another goes on.
"""

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sensors.snapshot import Snapshot
from edge_agent.values import Quality

PATIENCE = 0.1  # of the deadline, until another thread goes on in the place of one that hangs
_MAX_TEXT_BYTES = 4096
_MAX_OUTPUT = 16384


@dataclass(frozen=True, slots=True)
class Outcome:
    """What asking gave: texts by name, and whether anything was there or forbidden; stale: it did not answer."""

    texts: Mapping[str, str]
    quality: Quality


class Probe:
    """One place, asked at most once at a time and never more often than `every_s`. Saves nothing."""

    def __init__(self, place: str, ask: Callable[[], Outcome], every_s: float = 0.0) -> None:
        self._place = place
        self._ask = ask
        self._every_s = every_s
        self._done = threading.Event()
        self._done.set()
        self._last = Outcome({}, Quality.ABSENT)
        self._asked_s = self._answered_s = -float("inf")
        self._good: tuple[Outcome, float] | None = None

    def begin(self) -> bool:
        """Whether it is to be asked now."""
        due = self._done.is_set() and time.monotonic() - self._asked_s >= self._every_s
        if due:
            self._asked_s = time.monotonic()
            self._done.clear()
        return due

    def run(self) -> None:
        self._end(self._ask())

    def give_up(self) -> None:
        """Nobody came to ask it."""
        self._end(Outcome({}, Quality.STALE))

    def wait(self, until: float) -> None:
        self._done.wait(max(0.0, until - time.monotonic()))

    def snapshot(self) -> Snapshot:
        """The latest texts; the last good ones, as stale, while there is no answer."""
        now, good = time.monotonic(), self._good
        if self._done.is_set() and self._last.quality is not Quality.STALE:
            return Snapshot(self._place, self._last.texts, self._last.quality, max(0.0, now - self._answered_s))
        if good is None:
            return Snapshot(self._place, {}, Quality.ABSENT, 0.0)
        return Snapshot(self._place, good[0].texts, Quality.STALE, now - good[1])

    def _end(self, outcome: Outcome) -> None:
        self._answered_s = time.monotonic()
        self._last = outcome
        if outcome.quality is Quality.OK:
            self._good = (outcome, self._answered_s)
        self._done.set()


def ask(probes: Iterable[Probe], deadline_s: float) -> None:
    """Ask all that are to be asked, in this order, and be back after the deadline."""
    until = time.monotonic() + deadline_s
    asked = [probe for probe in probes if probe.begin()]
    left = deque(asked)
    while left and (rest_s := until - time.monotonic()) > 0:
        thread = threading.Thread(target=_ask_in_turn, args=(left,), name="probe", daemon=True)
        thread.start()
        thread.join(min(rest_s, deadline_s * PATIENCE))
    for probe in asked:
        probe.wait(until)
    while left:
        with contextlib.suppress(IndexError):  # a thread took the last one just now
            left.popleft().give_up()


def _ask_in_turn(left: deque[Probe]) -> None:
    while left:
        try:
            probe = left.popleft()
        except IndexError:  # another thread took it
            return
        probe.run()


def read_files(folder: Path, names: Callable[[Path], Sequence[str]]) -> Outcome:
    """The beginnings of a folder's files; `names` says which, and may look into the folder for it."""
    texts, denied = {}, False
    try:
        wanted = names(folder)
    except OSError as error:
        return Outcome({}, _quality(error))
    for name in wanted:
        try:
            texts[name] = read_text(folder / name)
        except OSError as error:
            denied = denied or _quality(error) is Quality.DENIED
    return Outcome(texts, Quality.DENIED if denied else Quality.OK if texts else Quality.ABSENT)


def read_text(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, _MAX_TEXT_BYTES).decode("ascii", "replace")
    finally:
        os.close(handle)


def run_program(command: Sequence[str], kill_after_s: float) -> Outcome:
    """What a program prints in English, as "output". One that takes too long is killed with all that it started.

    A program that is there but fails has been refused what it wants to read, as `vcgencmd` is outside its group.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        return Outcome({}, _quality(error))
    try:
        output, _ = child.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return Outcome({}, Quality.STALE)
    if child.returncode:
        return Outcome({}, Quality.DENIED)
    return Outcome({"output": output[:_MAX_OUTPUT].decode("utf-8", "replace")}, Quality.OK)


def _quality(error: OSError) -> Quality:
    return Quality.DENIED if error.errno in {errno.EACCES, errno.EPERM} else Quality.ABSENT
