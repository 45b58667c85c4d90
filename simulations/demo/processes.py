"""The demo's processes: started, watched, brought back when they die, and never left behind."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from learning_core.errors import DewfallError
from simulations.demo.leash import leashed

MAX_RESTARTS = 5
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
}


def environment() -> dict[str, str]:
    """The environment of whoever calls, with one thread a library and nothing that calls home."""
    return {**os.environ, **QUIET}


@dataclass(slots=True)
class Supervised:
    """One process that belongs to the demo. Nothing is saved: its state folder is its own."""

    name: str
    arguments: Sequence[str]  # of `python -m`
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)
    restarts: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                leashed(*self.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops the others in order
            )

    @property
    def pid(self) -> int:
        return self.process.pid


class Household:
    """All processes of one demo; leaving the `with` block ends every one of them. Nothing is saved."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.members: dict[str, Supervised] = {}

    def start(self, name: str, *arguments: str) -> Supervised:
        with undisturbed():
            member = Supervised(name, arguments, self._logs / f"{name}.log")
            self.members[name] = member
        return member

    def tend(self) -> list[str]:
        """Bring back whoever died since the last call, as a service manager would; their names."""
        fallen = [member for member in self.members.values() if member.process.poll() is not None]
        for member in fallen:
            if member.restarts >= MAX_RESTARTS:
                raise DewfallError(f"{member.name} keeps ending; read why in {member.log}: {last_lines(member.log, 1)}")
            member.restarts += 1
            with undisturbed():
                member.start()
        return [member.name for member in fallen]

    def pids(self) -> Mapping[str, int]:
        return {name: member.pid for name, member in self.members.items()}

    def __enter__(self) -> "Household":
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self.stop()

    def stop(self, grace_s: float = 6.0) -> None:
        """SIGTERM to all, then SIGKILL to the whole process group of whoever is left."""
        alive = [member.process for member in self.members.values() if member.process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + grace_s
        for process in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.05, deadline - time.monotonic()))
        for process in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is through: what it starts is entered, what it ends has ended."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def last_lines(log: Path, count: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
