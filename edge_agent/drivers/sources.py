"""Where a device's samples come from, put together: the spool, a person's own program, and what the doors bring."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edge_agent.config import AgentSettings
from edge_agent.drivers.inbox import Inbox
from edge_agent.drivers.program_source import ProgramSource
from edge_agent.drivers.spool_source import SpoolSource
from edge_agent.ingest import Intake, take_in
from edge_agent.loops import Loops
from edge_agent.observation import Expected
from edge_agent.operations import Operation, observing
from edge_agent.ports import Memory, Release
from edge_agent.signs import StreamWatch
from edge_agent.status import describe_stream

NICENESS = 10  # samples can wait; whoever asks for one cannot


class Sources:
    """Brings samples into memory, a file at a time. What is on its way is saved as files of the spool.

    `turn` is held while samples come in; whoever lets them go holds it too. `wanted`: conditions that healing found
    to be answered badly.
    """

    def __init__(
        self,
        settings: AgentSettings,
        memory: Memory,
        release: Callable[[], Release | None],
        wanted: Callable[[], Collection[int]],
    ) -> None:
        source, kept = settings.source, settings.memory
        self._settings = settings
        self._memory = memory
        self._release = release
        self._wanted = wanted
        self._spool = SpoolSource(
            settings.spool, source.max_file_bytes, source.conversions(), source.max_set_aside_bytes
        )
        self._program = ProgramSource(settings.name, settings.spool, source, release)
        self._inbox = Inbox(settings.spool, source.max_file_bytes, self._expected)
        self._rng = np.random.default_rng()
        self._watch = StreamWatch(self._rng)
        self._intake = Intake(kept.rule(), kept.max_bytes, source.min_certainty)
        self.turn = threading.Lock()

    def start(self, loops: Loops) -> None:
        loops.start("ingest", lambda: self._ingest(loops.stop), self._settings.source.interval_s, NICENESS)
        if self._settings.source.program is not None:
            loops.start("program", self._program.step)

    def close(self) -> None:
        self._program.close()

    def operations(self) -> dict[str, Operation]:
        return observing(self._inbox.take)

    def forgotten(self) -> None:
        """Samples were; whoever calls holds `turn`. What the watch over the stream has of them goes too."""
        self._watch.forget()

    def describe(self) -> Mapping[str, Any]:
        """For `status`: the signs of the stream, and how a person's own program is."""
        return {"stream": describe_stream(self._watch.signs), "program": self._program.describe()}

    def _ingest(self, stop: threading.Event) -> None:
        """Take in all that waits, file by file."""
        while not stop.is_set() and (release := self._release()) is not None:
            intake = replace(self._intake, wanted=frozenset(self._wanted()))
            with self.turn:
                taken = take_in(self._spool, self._memory, release, intake, self._rng, self._watch)
            if taken is None:
                return

    def _expected(self) -> Expected | None:
        release = self._release()
        if release is None:
            return None
        return Expected(release.sample_shape, release.manifest.num_conditions, self._settings.source.conversions())
