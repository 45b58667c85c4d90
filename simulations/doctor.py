"""What this machine can do for Dewfall, in words. It needs nothing but what every role has."""

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROLES = {
    "edge": ("flwr", "onnxruntime", "psutil", "zstandard"),
    "train": ("torch", "peft", "opacus"),
    "fog": ("flwr", "grpc", "psutil"),
    "cloud": ("torch", "onnx", "onnxscript", "onnxruntime", "grpc", "sklearn"),
    "sim": ("torch", "flwr", "onnx", "onnxscript", "onnxruntime", "grpc", "sklearn", "psutil", "matplotlib"),
}


def free_memory_gib() -> float:
    """What new processes can have, as the kernel estimates it (proc(5)); without one, what lies idle."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def examine(config: Path | None = None) -> int:
    """Print the findings; 0 when at least one role can run here, and with a device's settings, when the agent can.

    Raises ConfigError.
    """
    table = Table("what", "found", "means", title="dewfall doctor", show_lines=False)
    python_fits = sys.version_info >= (3, 11)
    table.add_row("Python", sys.version.split()[0], "fits" if python_fits else "too old; 3.11 or newer is needed")
    ready = 0
    for role, packages in ROLES.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        ready += not missing
        means = "can run" if not missing else f"install it: pip install 'dewfall[{role}]' -c constraints.txt"
        table.add_row(f"role {role}", f"lacks {', '.join(missing)}" if missing else "complete", Text(means))
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    table.add_row(
        "disk", f"{free_gib:.1f} GiB free", "fits" if free_gib > 2 else "less than the 2 GiB an installation needs"
    )
    memory_gib = free_memory_gib()
    table.add_row(
        "memory", f"{memory_gib:.1f} GiB free", "fits the demo" if memory_gib > 4 else "too little for the demo"
    )
    table.add_row("cores", str(os.cpu_count()), "fits" if (os.cpu_count() or 1) > 1 else "the demo will be slow")
    zones = list(Path("/sys/class/thermal").glob("thermal_zone*"))
    table.add_row(
        "heat sensors",
        f"{len(zones)} thermal zones",
        "an agent here can watch its heat"
        if zones
        else "an agent here trains only if limits.needs_thermometer is false",
    )
    if config is None:
        Console().print(table)
        return 0 if ready and python_fits else 1
    prevents, readings = _examine_device(config, table)
    Console().print(table)
    Console().print(readings, markup=False, highlight=False, soft_wrap=True)
    return 1 if prevents or not python_fits else 0


def _examine_device(config: Path, table: Table) -> tuple[bool, str]:
    """Add what a device's agent needs to the table; whether something prevents it, and the sensors' readings."""
    from edge_agent.config import AgentSettings  # noqa: PLC0415 - takes time that nobody else needs to wait for
    from edge_agent.people import look  # noqa: PLC0415
    from protos.settings import load  # noqa: PLC0415
    from simulations.doctor_device import findings, sensors  # noqa: PLC0415

    settings = load(AgentSettings, config, os.environ, "DEWFALL_EDGE")
    row, readings = sensors(*look(settings.telemetry.root, settings.limits))
    found = [*findings(settings, config, time.time()), row]
    table.add_section()
    for each in found:
        table.add_row(each.what, Text(each.found), Text(each.means, "bold red" if each.prevents else ""))
    lacks = [package for package in ROLES["edge"] if importlib.util.find_spec(package) is None]
    return any(each.prevents for each in found) or bool(lacks), readings
