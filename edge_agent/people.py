"""What a person does with a device from a terminal, beyond one question and its answer."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.live import Live

from edge_agent.config import AgentSettings, Limits, Source
from edge_agent.drivers import labelling
from edge_agent.drivers.control_socket import AgentLine
from edge_agent.drivers.forgetting import forget_without_agent
from edge_agent.drivers.going_back import roll_back_without_agent
from edge_agent.drivers.line_source import observe
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.governor import Situation, decide
from edge_agent.live_view import view_of
from edge_agent.normalise.wanted import Conversions
from edge_agent.observation import Expected
from edge_agent.png import png_of
from edge_agent.selection import Selection
from edge_agent.status import describe_look
from edge_agent.values import Decision, Telemetry
from learning_core.errors import ConfigError, DewfallError, LinkDown
from protos.state_folder import write_atomically

LOOK_DEADLINE_S = 3.0  # a person waits longer than a running agent
REFRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where an agent is spoken with, keeps its state and takes samples from, in files of at most so many bytes."""

    socket: Path
    state: Path
    spool: Path
    max_file_bytes: int
    conversions: Conversions = field(default_factory=Conversions)


def places_of(settings: AgentSettings) -> Places:
    source = settings.source
    return Places(settings.socket, settings.state, settings.spool, source.max_file_bytes, source.conversions())


def usual_places(state: Path) -> Places:
    """Of an agent whose settings name no others."""
    return Places(state / "agent.sock", state, state / "spool", Source().max_file_bytes)


def write_png(out: Path, payload: bytes, shape: list[int]) -> None:
    """Write samples (float32 as bytes) as one picture. Raises DewfallError."""
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} to write {out.name} into; make it first")
    write_atomically(out, png_of(np.frombuffer(payload, "<f4").reshape(shape)))


def look_at(root: Path) -> dict[str, Any]:
    """One look, decided with the default limits."""
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root} to look at; / is this device")
    return describe_look(*look(root, Limits()))


def look(root: Path, limits: Limits) -> tuple[Telemetry, Decision]:
    """One look at a device, and what its governor makes of it as if there were a release and samples to learn from."""
    telemetry = SysfsTelemetry(root, deadline_s=LOOK_DEADLINE_S).read()
    ready = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=limits.min_samples)
    return telemetry, decide(telemetry, limits, ready)


def watch_status(socket: Path, console: Console) -> None:
    """Show how the agent is, again every second until Ctrl-C. Raises LinkDown when there is none, or none any more."""
    with AgentLine(socket) as line:
        tree = line.ask("status")[0]["status"]
        with Live(view_of(tree), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(view_of(line.ask("status")[0]["status"]), refresh=True)


def waiting_for_a_name(places: Places) -> list[dict[str, str]]:
    """Samples whose class nobody knows, by name and why."""
    return labelling.unsure(places.spool)


def label_at(places: Places, name: str, condition: int | None, png: Path | None) -> None:
    """Draw one of them, or name it, or both. Raises DewfallError."""
    if png is not None:
        sample = labelling.look_at(places.spool, name)
        if sample.ndim != 4:
            raise ConfigError(f"{name} is no image, so it cannot be drawn")
        write_png(png, sample.astype("<f4").tobytes(), list(sample.shape))
    if condition is not None:
        labelling.label(places.spool, name, condition)


def forget_at(selection: Selection, asked: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Let the running agent forget, or do it on its state when none runs. Raises DewfallError."""
    try:
        with AgentLine(places.socket) as line:
            forgotten: dict[str, Any] = line.ask("forget", **asked)[0]["forgotten"]
            return forgotten
    except LinkDown:
        return asdict(forget_without_agent(selection, places.state, places.spool, places.conversions))


def roll_back_at(kind: str | None, places: Places) -> str:
    """Let the running agent go back, or prepare its state for that when none runs. Raises DewfallError."""
    try:
        with AgentLine(places.socket) as line:
            return str(line.ask("rollback", kind=kind)[0]["told"])
    except LinkDown:
        return roll_back_without_agent(kind, places.state)


def observe_lines(stream: IO[bytes], places: Places) -> tuple[int, int]:
    """Hand a stream of JSON lines to the agent; how many were handed on and how many refused, each with a reason."""
    expected = _expected(places.socket, places.conversions)
    return observe(stream, places.spool, places.max_file_bytes, expected, _tell_refused, _tell_waiting)


def _expected(socket: Path, conversions: Conversions) -> Expected | None:
    """What the running agent's release takes; None when that cannot be known now."""
    try:
        with AgentLine(socket) as line:
            release = line.ask("status")[0]["status"]["release"]
    except DewfallError:
        return None
    return Expected(tuple(release["sample_shape"]), release["num_conditions"], conversions) if release else None


def _tell_refused(number: int, reason: str) -> None:
    print(f"line {number} is refused: {reason}", file=sys.stderr)  # noqa: T201


def _tell_waiting(files: int) -> None:
    print(f"{files} files wait in the spool; going on as the agent takes them in", file=sys.stderr)  # noqa: T201
