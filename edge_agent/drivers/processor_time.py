"""How much of the processor a child takes, from the kernel's account of it (proc(5), fields utime and stime)."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Use:
    """Since the last look, `passed_s` ago: seconds of one core, and which share of all cores' time that was."""

    core_s: float = 0.0
    share: float = 0.0
    passed_s: float = 0.0

    @property
    def cores(self) -> float:
        """How many cores were busy with it, on average."""
        return self.core_s / self.passed_s if self.passed_s > 0 else 0.0


class ProcessorTime:
    """Looks at one process at a time. Saves nothing."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._pid: int | None = None
        self._core_s = 0.0
        self._looked_s = clock()

    def look(self, pid: int | None) -> Use:
        """What `pid` has used since the last look; a process not seen before counts from its beginning.

        One that has ended since cannot be asked any more and counts as if it had used a whole core.
        """
        now_s = self._clock()
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        used_s = passed_s if self._pid not in {None, pid} else 0.0
        if pid != self._pid:
            self._pid, self._core_s = pid, 0.0
        if pid is not None:
            core_s = self._read(pid)
            used_s += passed_s if core_s is None else max(0.0, core_s - self._core_s)
            self._pid, self._core_s = (None, 0.0) if core_s is None else (pid, core_s)
        share = used_s / passed_s / (os.cpu_count() or 1) if passed_s > 0 else 0.0
        return Use(used_s, min(1.0, share), passed_s)

    def _read(self, pid: int) -> float | None:
        try:
            text = (self._proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None  # it has ended
        fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
