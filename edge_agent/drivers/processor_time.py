"""How much of the processor our children take, from the kernel's account of it (proc(5), fields utime and stime)."""

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
    """Remembers who was looked at last, and what each had used by then. Saves nothing."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._core_s: dict[int, float] = {}
        self._looked_s = clock()

    def look(self, *pids: int | None) -> Use:
        """What these have used together since the last look; a process not seen before counts from its beginning.

        One that has ended since cannot be asked any more and counts as if it had used a whole core. None: nobody.
        """
        now_s = self._clock()
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        alive = {pid for pid in pids if pid is not None}
        used_s = passed_s * len(self._core_s.keys() - alive)
        before, self._core_s = self._core_s, {}
        for pid in alive:
            if (core_s := self._read(pid)) is None:
                used_s += passed_s
            else:
                used_s += max(0.0, core_s - before.get(pid, 0.0))
                self._core_s[pid] = core_s
        share = used_s / passed_s / (os.cpu_count() or 1) if passed_s > 0 else 0.0
        return Use(used_s, min(1.0, share), passed_s)

    def _read(self, pid: int) -> float | None:
        try:
            text = (self._proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None  # it has ended
        fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
