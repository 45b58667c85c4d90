"""Reads the kernel's thermal and power-supply classes without ever waiting for them.

A read of sysfs can hang for ever (Jetson zones of absent accelerators, firmware that sleeps). Every folder is read by
a thread of its own; who does not answer in time keeps its last good texts and their age, and is not asked again
before it has answered.
"""

import errno
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sysfs import COOLER_FILES, SUPPLY, SUPPLY_FILES, THERMAL, ZONE_FILES, Snapshot, telemetry_of
from edge_agent.values import Quality, Telemetry

_MAX_TEXT_BYTES = 256


class SysfsTelemetry:
    """The device's telemetry below `root`. Saves nothing; holds the last good texts of every folder."""

    def __init__(self, root: Path, deadline_s: float) -> None:
        self._root = root
        self._deadline_s = deadline_s
        self._probes: dict[Path, _Probe] = {}

    def read(self) -> Telemetry:
        """Ask every folder, wait at most the deadline, and make of it what there is."""
        kinds = {
            "zone": self._folders(THERMAL, "thermal_zone", ZONE_FILES),
            "cooler": self._folders(THERMAL, "cooling_device", COOLER_FILES),
            "supply": self._folders(SUPPLY, "", SUPPLY_FILES),
        }
        asked = [probe for probes in kinds.values() for probe in probes]
        for probe in asked:
            probe.ask()
        until = time.monotonic() + self._deadline_s
        for probe in asked:
            probe.wait(until)
        self._probes = {probe.folder: probe for probe in asked}
        return telemetry_of(*(tuple(probe.snapshot() for probe in probes) for probes in kinds.values()))

    def _folders(self, place: str, prefix: str, files: Sequence[str]) -> list["_Probe"]:
        folder = self._root / place
        try:
            names = sorted(name for name in os.listdir(folder) if name.startswith(prefix))
        except FileNotFoundError:
            return []
        except OSError:
            return [_Probe(folder, files)]  # its own read fails the same way and says how
        return [self._probes.get(folder / name) or _Probe(folder / name, files) for name in names]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one read of a folder gave."""

    texts: Mapping[str, str]
    quality: Quality
    at_s: float


class _Probe:
    """One folder and at most one thread that reads it."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder = folder
        self._files = files
        self._done = threading.Event()
        self._done.set()
        self._last = _Outcome({}, Quality.ABSENT, 0.0)
        self._good: _Outcome | None = None

    def ask(self) -> None:
        if self._done.is_set():
            self._done.clear()
            threading.Thread(target=self._read, name=f"probe {self.folder.name}", daemon=True).start()

    def wait(self, until: float) -> None:
        self._done.wait(max(0.0, until - time.monotonic()))

    def snapshot(self) -> Snapshot:
        """The latest texts; the last good ones, as stale, while the folder does not answer."""
        now, good = time.monotonic(), self._good
        if self._done.is_set():
            return Snapshot(str(self.folder), self._last.texts, self._last.quality, max(0.0, now - self._last.at_s))
        if good is None:
            return Snapshot(str(self.folder), {}, Quality.ABSENT, 0.0)
        return Snapshot(str(self.folder), good.texts, Quality.STALE, now - good.at_s)

    def _read(self) -> None:
        texts, denied = {}, False
        for file in self._files:
            try:
                texts[file] = _text(self.folder / file)
            except OSError as error:
                denied = denied or error.errno in {errno.EACCES, errno.EPERM}
        quality = Quality.DENIED if denied else Quality.OK if texts else Quality.ABSENT
        self._last = _Outcome(texts, quality, time.monotonic())
        if quality is Quality.OK:
            self._good = self._last
        self._done.set()


def _text(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, _MAX_TEXT_BYTES).decode("ascii", "replace")
    finally:
        os.close(handle)
