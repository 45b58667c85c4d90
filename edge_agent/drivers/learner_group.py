"""The learner's own control group, where the agent was given one to divide: least weight, and no more memory than set.

Kernel: Documentation/admin-guide/cgroup-v2.rst. A group that hands controllers down may hold no process itself, so the
agent first moves itself into a group beside the learner's. Only a service's own group is touched: any other is shared
with programs that are not ours.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sensors.pressure import parse_pressure

AGENT, LEARNER = "agent", "learner"
LEAST_WEIGHT = "1"  # of 100 that everybody else has
MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # the second beside version 1

_KILLS = re.compile(r"^oom_kill (\d{1,15})$", re.MULTILINE | re.ASCII)


@dataclass(frozen=True, slots=True)
class LearnerGroup:
    """Where learners are put, None where that is not allowed; `says`: what holds them, for a person to read."""

    folder: Path | None = None
    says: str = "no cgroup of its own"

    def take(self, pid: int) -> bool:
        """Put a process into it, alone; whether it is there now.

        An idle learner that lingers there would take its memory, so that one ends (since Linux 5.14).
        """
        if self.folder is not None:
            _write(self.folder / "cgroup.kill", "1")
        return self.folder is not None and _write(self.folder / "cgroup.procs", str(pid))

    def pressure(self) -> float | None:
        """The share 0..1 of the last ten seconds in which the learner waited for a processor; None if nobody tells."""
        if self.folder is None:
            return None
        try:
            return parse_pressure((self.folder / "cpu.pressure").read_text(encoding="ascii", errors="replace"))
        except (OSError, ValueError):
            return None

    def kills(self) -> int:
        """How often the kernel has killed a learner for want of memory."""
        if self.folder is None:
            return 0
        try:
            return parse_kills((self.folder / "memory.events").read_text(encoding="ascii", errors="replace"))
        except (OSError, ValueError):
            return 0


def open_group(root: Path, max_memory_mib: int) -> LearnerGroup:
    """Make the group below `root`, or say why there is none. Changes nothing but this service's own groups."""
    try:
        path = parse_own_path((root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return _without("this kernel has no cgroup v2")
    if not path.endswith((".service", f".service/{AGENT}")):
        return _without("the agent does not run as a service of its own")
    mount = next((root / each for each in MOUNTS if (root / each / "cgroup.controllers").exists()), None)
    if mount is None:
        return _without("cgroup v2 is not mounted")
    service = mount / path.removesuffix(f"/{AGENT}").strip("/")
    if ".." in service.parts:
        return _without("the service's cgroup lies outside of what the agent sees")
    if not _is_ours_alone(service):
        return _without("other programs live in its cgroup; start it as a service of its own")
    try:
        for name in (AGENT, LEARNER):
            (service / name).mkdir(exist_ok=True)
    except OSError:
        return _without("its service may not divide its cgroup; give it Delegate=cpu memory")
    if not _write(service / AGENT / "cgroup.procs", str(os.getpid())):
        return _without("the agent may not move itself within its cgroup; give it Delegate=cpu memory")
    learner, held, free = service / LEARNER, list[str](), list[str]()
    for controller, file, value, told in (
        ("cpu", "cpu.weight", LEAST_WEIGHT, f"cpu.weight {LEAST_WEIGHT}"),
        ("memory", "memory.max", str(max_memory_mib << 20), f"memory.max {max_memory_mib} MiB"),
    ):
        handed_down = _write(service / "cgroup.subtree_control", f"+{controller}")
        (held if handed_down and _write(learner / file, value) else free).append(told)
    says = f"cgroup {path.removesuffix(f'/{AGENT}')}/{LEARNER}"
    says += f" with {' and '.join(held)}" * bool(held) + f", not allowed: {' and '.join(free)}" * bool(free)
    return LearnerGroup(learner, says)


def _is_ours_alone(service: Path) -> bool:
    """Whether no other process stands in the group itself: what cron or a shell starts stands beside them."""
    try:
        pids = (service / "cgroup.procs").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return set(pids) <= {str(os.getpid())}


def parse_own_path(text: str) -> str:
    """The path in "0::/system.slice/dewfall-edge.service", the line of version 2. Raises ValueError."""
    found = re.search(r"^0::(/[^\n]*)$", text, re.MULTILINE)
    if not found:
        raise ValueError("this names no group of version 2")
    return found[1]


def parse_kills(text: str) -> int:
    """How many processes the kernel killed, from memory.events. Raises ValueError."""
    found = _KILLS.search(text)
    if not found:
        raise ValueError("these are no memory events")
    return int(found[1])


def _without(why: str) -> LearnerGroup:
    return LearnerGroup(None, f"no cgroup of its own: {why}")


def _write(file: Path, value: str) -> bool:
    """As the kernel wants it: one write, into a file that is there."""
    with contextlib.suppress(OSError):
        handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(handle, value.encode("ascii")) > 0
        finally:
            os.close(handle)
    return False
