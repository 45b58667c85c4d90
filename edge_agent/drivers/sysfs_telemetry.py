"""Looks at the device below a root folder: the kernel's files, and the programs that know what they do not say."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edge_agent.drivers.probes import Probe, ask, read_files, read_text, run_program
from edge_agent.sensors.device import CHIP_FILES, CHIPS, MACHINE_FILES, NOWHERE, Look, telemetry_of
from edge_agent.sensors.network import NMCLI
from edge_agent.sensors.raspberry import VCGENCMD
from edge_agent.sensors.snapshot import Snapshot
from edge_agent.sensors.supply import SUPPLY, SUPPLY_FILES
from edge_agent.sensors.termux import BATTERY_STATUS
from edge_agent.sensors.thermal import THERMAL, ZONE_FILE
from edge_agent.sensors.throttling import CAP_FILES, COOLER_FILES, COUNTER_FILES, PROCESSORS, counts
from edge_agent.values import Telemetry

# Starting a program costs more than reading all the kernel's files.
PROGRAM_EVERY_S = {VCGENCMD: 2.0, BATTERY_STATUS: 4.0, NMCLI: 20.0}
KILL_AFTER_S = 5.0

Names = Callable[[Path], Sequence[str]]


class SysfsTelemetry:
    """The device's telemetry below `root`. Saves nothing; holds the last good texts of every place."""

    def __init__(self, root: Path, deadline_s: float) -> None:
        self._root = root
        self._deadline_s = deadline_s
        self._folders: dict[Path, Probe] = {}
        self._programs = {command: probe for command in PROGRAM_EVERY_S if (probe := self._program(command))}
        self._earlier: dict[str, int] = {}

    def read(self) -> Telemetry:
        """Ask every place, wait at most the deadline, and make of it what there is."""
        found = {
            "zones": self._below(THERMAL, "thermal_zone", _zone_files),
            "coolers": self._below(THERMAL, "cooling_device", lambda _: COOLER_FILES),
            "supplies": self._below(SUPPLY, "", lambda _: SUPPLY_FILES),
            "chips": self._below(CHIPS, "hwmon", _chip_files),
        }
        machine = {self._root: self._folder(self._root, lambda _: MACHINE_FILES)}
        processors = {self._root / PROCESSORS: self._folder(self._root / PROCESSORS, _processor_files)}
        self._folders = {path: probe for kind in (*found.values(), machine, processors) for path, probe in kind.items()}
        ask([*self._folders.values(), *self._programs.values()], self._deadline_s)
        said = {kind: tuple(probe.snapshot() for probe in probes.values()) for kind, probes in found.items()}
        cores = processors[self._root / PROCESSORS].snapshot()
        look = Look(
            **said,
            machine=machine[self._root].snapshot(),
            processors=cores,
            firmware=self._said(VCGENCMD) or NOWHERE,
            phone=self._said(BATTERY_STATUS),
            network=self._said(NMCLI),
            earlier=self._earlier,
        )
        self._earlier = counts(cores) or self._earlier
        return telemetry_of(look)

    def _said(self, command: tuple[str, ...]) -> Snapshot | None:
        """What a program said last, None where there is none."""
        probe = self._programs.get(command)
        return probe.snapshot() if probe else None

    def _below(self, place: str, prefix: str, names: Names) -> dict[Path, Probe]:
        """The folders of a class, each with its probe."""
        folder = self._root / place
        try:
            paths = [folder / name for name in sorted(os.listdir(folder)) if name.startswith(prefix)]
        except FileNotFoundError:
            return {}
        except OSError:
            paths = [folder]  # its own read fails the same way and says how
        return {path: self._folder(path, names) for path in paths}

    def _folder(self, path: Path, names: Names) -> Probe:
        return self._folders.get(path) or Probe(_place(path), partial(read_files, path, names))

    def _program(self, command: tuple[str, ...]) -> Probe | None:
        program = self._root / command[0]
        if not os.access(program, os.F_OK):
            return None
        run = partial(run_program, (str(program), *command[1:]), KILL_AFTER_S)
        return Probe(_place(program), run, PROGRAM_EVERY_S[command])


def _place(path: Path) -> str:
    return str(path).rstrip("/")


def _zone_files(zone: Path) -> Sequence[str]:
    return [name for name in os.listdir(zone) if ZONE_FILE.fullmatch(name)]


def _chip_files(chip: Path) -> Sequence[str]:
    """Only of chips that are of use: reading the temperature of a drive wakes it."""
    wanted = CHIP_FILES.get(read_text(chip / "name").strip())
    return [name for name in os.listdir(chip) if wanted.fullmatch(name)] if wanted else ("name",)


def _processor_files(processors: Path) -> Sequence[str]:
    return [str(path.relative_to(processors)) for kind in (COUNTER_FILES, CAP_FILES) for path in processors.glob(kind)]
