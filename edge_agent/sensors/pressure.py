"""How much the device's work waits for processor and memory: the kernel's pressure stall information.

Kernel: Documentation/accounting/psi.rst. Many kernels have it switched off (Raspberry Pi's by default); then the load
per core stands in for the processor and nothing for memory.
"""

import re

from edge_agent.sensors.snapshot import Snapshot
from edge_agent.values import Reading

CPU, MEMORY = "proc/pressure/cpu", "proc/pressure/memory"
LOAD, MEMINFO, CORES = "proc/loadavg", "proc/meminfo", "sys/devices/system/cpu/online"
LOADS = (CPU, MEMORY, LOAD, MEMINFO, CORES)

_SOME = re.compile(r"^some avg10=(\d{1,3}\.\d\d) ", re.MULTILINE | re.ASCII)
_AVAILABLE = re.compile(r"^MemAvailable: +(\d{1,15}) kB$", re.MULTILINE | re.ASCII)
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def parse_pressure(text: str) -> float:
    """The share 0..1 of the last ten seconds in which some work waited. Raises ValueError."""
    found = _SOME.search(text)
    if not found or float(found[1]) > 100:
        raise ValueError("this is no pressure stall information")
    return float(found[1]) / 100


def parse_load(text: str) -> float:
    """The mean number of tasks that ran or waited in the last minute. Raises ValueError."""
    found = re.match(r"(\d{1,7}\.\d\d) ", text, re.ASCII)
    if not found:
        raise ValueError("this is no load average")
    return float(found[1])


def parse_cores(text: str) -> int:
    """How many processors "0-3,6" names. Raises ValueError."""
    spans = [_RANGE.fullmatch(span) for span in text.strip().split(",")]
    count = sum(int(span[2] or span[1]) - int(span[1]) + 1 for span in spans if span)
    if None in spans or count < 1:
        raise ValueError("this is no list of processors")
    return count


def parse_free_mib(text: str) -> float:
    """What programs may still take without swapping. Raises ValueError."""
    found = _AVAILABLE.search(text)
    if not found:
        raise ValueError("this does not say how much memory is available")
    return int(found[1]) / 1024


def cpu_pressure(machine: Snapshot) -> Reading:
    """Share 0..1 of time in which work waits for the processor; without pressure information, load per core."""
    try:
        return machine.reading(parse_pressure(machine.texts[CPU]), "share", CPU)
    except (KeyError, ValueError):
        pass
    try:
        load = parse_load(machine.texts[LOAD]) / parse_cores(machine.texts[CORES])
        return machine.reading(min(1.0, load), "share", f"{LOAD} per core")
    except (KeyError, ValueError):
        return machine.lacks("share", LOAD)


def memory_pressure(machine: Snapshot) -> Reading:
    """Share 0..1 of time in which work waits for memory."""
    try:
        return machine.reading(parse_pressure(machine.texts[MEMORY]), "share", MEMORY)
    except (KeyError, ValueError):
        return machine.lacks("share", MEMORY)


def free_memory(machine: Snapshot) -> Reading:
    try:
        return machine.reading(parse_free_mib(machine.texts[MEMINFO]), "MiB", MEMINFO)
    except (KeyError, ValueError):
        return machine.lacks("MiB", MEMINFO)
