"""The demo's devices as their agents see them: a sysfs tree that a physics twin keeps writing, and a spool of samples.

Simulated heat and charge, driven by what the real learner process really does: its CPU seconds are the load.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from protos.codec import encode_tensors
from protos.state_folder import write_atomically
from simulations.physics import Board, DeviceState, step, sysfs_files
from simulations.streams import Portion

TICK_S = 0.25


@dataclass(slots=True)
class Twin:
    """One device's surroundings, moved on by `advance`. Nothing is saved: it is the world, not a program."""

    name: str
    root: Path
    spool: Path
    board: Board
    state: DeviceState
    stream: deque[Portion]
    plug_in_after_s: float | None = None
    peak_c: float = 0.0
    delivered: int = 0
    history: list[tuple[float, float, float, float]] = field(default_factory=list)  # elapsed s, die C, charge, load
    _cpu_s: dict[int, float] = field(default_factory=dict)

    def advance(self, elapsed_s: float, dt_s: float, time_scale: float, agent_pid: int | None) -> None:
        """`dt_s` real seconds pass, `time_scale` times as many for heat and charge."""
        share = min(1.0, self._learning_cpu_s(agent_pid) / dt_s)
        self.state = step(self.state, self.board, share, dt_s * time_scale)
        self.peak_c = max(self.peak_c, self.state.die_c)
        self.history.append((elapsed_s, self.state.die_c, self.state.charge, share))
        self.show()

    def show(self) -> None:
        for path, text in sysfs_files(self.state, self.board).items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}")  # sysfs never shows half a number
            draft.write_text(text)
            draft.replace(target)

    def deliver(self, elapsed_s: float) -> None:
        """Drop what is due into the spool, as a camera would."""
        if self.plug_in_after_s is not None and elapsed_s >= self.plug_in_after_s:
            self.state, self.plug_in_after_s = replace(self.state, plugged=True), None
        while self.stream and self.stream[0].after_s <= elapsed_s:
            batch = self.stream.popleft().batch
            data = encode_tensors({"features": batch.features, "conditions": batch.conditions})
            write_atomically(self.spool / f"{self.delivered:06d}.safetensors", data)
            self.delivered += 1

    def _learning_cpu_s(self, agent_pid: int | None) -> float:
        """CPU seconds the device's learner used since the last call."""
        used, previous = {}, self._cpu_s
        try:
            children = psutil.Process(agent_pid).children(recursive=True) if agent_pid else []
        except psutil.Error:
            children = []
        for child in children:
            try:
                if any("edge_agent.learner" in word for word in child.cmdline()):
                    times = child.cpu_times()
                    used[child.pid] = times.user + times.system
            except psutil.Error:
                continue
        self._cpu_s = used
        return sum(cpu - previous.get(pid, 0.0) for pid, cpu in used.items())


class World(threading.Thread):
    """Keeps every twin moving until told to stop. A failure is kept and raised by `check`."""

    def __init__(self, twins: list[Twin], time_scale: float, pid_of: Callable[[str], int | None]) -> None:
        super().__init__(name="world", daemon=True)
        self._twins, self._scale, self._pid_of = twins, time_scale, pid_of
        self._halt = threading.Event()
        self._streams_began: float | None = None
        self._failure: Exception | None = None
        for twin in twins:
            twin.spool.mkdir(parents=True, exist_ok=True)
            twin.show()

    def begin_streams(self) -> None:
        self._streams_began = time.monotonic()

    def run(self) -> None:
        began = last = time.monotonic()
        while not self._halt.wait(TICK_S):
            now = time.monotonic()
            try:
                for twin in self._twins:
                    twin.advance(now - began, now - last, self._scale, self._pid_of(twin.name))
                    if self._streams_began is not None:
                        twin.deliver(now - self._streams_began)
            except Exception as error:  # whatever it is: a world that stands still must not pass for a calm one
                self._failure = error
                return
            last = now

    def check(self) -> None:
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        self._halt.set()
        self.join()
