"""The fog as a trainer: what a device may send is sent, and what comes back is believed when it fits its release.

A job is a folder of its own: what was sent for it and what came back. Whatever ends in between (this process, the
fog's, the line), the same bytes are sent again, and a fog that has them already learns from them once. Its name is
written down before anything leaves, and stays until the fog has dropped the job.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.config import AgentSettings
from edge_agent.drivers.noised_samples import NOTHING_LEFT, NoisedSamples
from edge_agent.drivers.offload_calls import OffloadCalls
from edge_agent.drivers.offload_folder import OffloadFolder, Packed
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.watched import Answer, Stopped, Watched
from edge_agent.offload import LEARNING, kind_for
from edge_agent.ports import Job, Release
from edge_agent.values import Decision, Fitted, NotFitted
from learning_core.errors import DewfallError, LinkDown
from protos.codec import decode_params
from protos.learner_records import Checkpoint
from protos.offload_jobs import JobState, Kind, Standing
from protos.offload_messages import MAX_ADAPTER_BYTES

log = logging.getLogger(__name__)
BYTES = 4  # of a number
LOOK_S = 5.0  # the longest a question may take for which nobody waits willingly
FORGETTING = "samples are being forgotten"
MAX_UNTOLD = 64  # jobs; a fog that does not drop what it is told to drop gets no more
FRESH = 3  # looks; an offer that is older than so many of them counts no more


class OffloadLink:
    """One job at a time. Saved as the folder of the job at hand, and the set of noised samples beside it.

    The journal has the names of the jobs that the fog may have samples of.
    """

    def __init__(self, settings: AgentSettings, key: ec.EllipticCurvePrivateKey, journal: SqliteJournal) -> None:
        self._settings = settings.offload
        folder = settings.state / "offload"
        self._noised = NoisedSamples(folder, journal, settings.offload, settings.privacy)
        self._packed = OffloadFolder(folder, settings, self._noised, journal)
        self._journal = journal
        self._calls = OffloadCalls(settings.offload_address, settings.fog.ca, key, settings.offload.deadline_s)
        look_s = min(LOOK_S, settings.offload.deadline_s)
        self._looks = OffloadCalls(settings.offload_address, settings.fog.ca, key, look_s)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="offload")
        self._turn = threading.Lock()
        self._halted = threading.Event()
        self._closed = False
        self._memory_bytes = settings.memory.max_bytes
        self.job_bytes = 0
        self._until_s = 0.0  # when the last good look is too old
        self.trouble = "the fog has not been asked yet"
        self._away = ""  # why the job at hand waits for the fog

    @property
    def ready(self) -> bool:
        return time.monotonic() < self._until_s and not self._halted.is_set()

    def look(self, release: Release | None) -> None:
        """Ask the fog whether it would learn on this release, and whether anything may be sent. Never raises.

        What it has of jobs that were given up it is told to drop.
        """
        self._tidy()
        if release is None:
            self.trouble = "there is no release to learn on yet"
            return
        try:
            found = self._kind(self._looks, release)
            if found is Kind.LATENTS and self._noised.room() == 0:
                found = NOTHING_LEFT
        except LinkDown as error:
            self.trouble = str(error)
            if not self._turn.locked():  # a job at hand waits for the fog to come back
                self._until_s = 0.0
            return
        except DewfallError as error:
            found = str(error)
        if not isinstance(found, Kind):
            self._until_s, self.trouble = 0.0, found
            return
        adapter = BYTES * sum(math.prod(shape) for shape in release.manifest.adapter_shapes.values())
        noised = self._settings.max_samples * (BYTES * math.prod(release.sample_shape) + 2 * BYTES)
        self.job_bytes = 2 * adapter + (self._memory_bytes if found is Kind.RAW else noised)
        self._until_s, self.trouble = time.monotonic() + FRESH * self._settings.look_s, ""

    def fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted:
        """Let the fog do the job for as long as `decision` allows; nothing is lost when it does not."""
        with self._turn:
            if self._halted.is_set():
                return NotFitted(FORGETTING)
            began = time.monotonic()
            self._away = ""

            def against() -> str | None:
                now = decision()
                if self._closed:
                    return "the agent is stopping"
                if self._halted.is_set():
                    return FORGETTING
                if now.action not in LEARNING:
                    return f"learning was stopped ({now.reason}): {now.sentence}"
                if time.monotonic() > began + job.deadline_s:
                    away = f"; {self._away}" if self._away else ""
                    return f"the fog did not end the job before the round's deadline{away}"
                return None

            try:
                outcome = self._fit(job, Watched(self._worker, against, self._calls.cancel), began)
            except Stopped as stop:
                outcome = NotFitted(str(stop))
            except DewfallError as error:
                outcome = NotFitted(f"the fog did not learn for this device: {error}")
            except OSError as error:
                outcome = NotFitted(f"{error.filename} cannot be used ({error.strerror}); check the disk it is on")
            if isinstance(outcome, NotFitted) and not self._closed:
                self._packed.give_up(job)
            return outcome

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Inside, the job at hand is given up and one that comes is refused; the fog is told to forget what it has."""
        self._halted.set()
        try:
            with self._turn:  # for the job at hand to end; those that come meanwhile see the flag
                self._drop(self._journal.far_jobs())
            yield
        finally:
            self._halted.clear()

    def traffic(self) -> tuple[int, int]:
        """Bytes of messages sent and received."""
        (up, down), (more_up, more_down) = self._calls.traffic(), self._looks.traffic()
        return up + more_up, down + more_down

    def close(self) -> None:
        """Give up what is at work; its job can go on from its folder another time."""
        self._closed = True
        self._calls.close()
        self._looks.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _fit(self, job: Job, watched: Watched, began: float) -> Fitted | NotFitted:
        if (packed := self._packed.find(job)) is None:
            kind = self._patiently(watched, lambda: self._kind(self._calls, job.release))
            if not isinstance(kind, Kind):
                return NotFitted(kind)
            if len(self._journal.far_jobs()) >= MAX_UNTOLD:
                return NotFitted(f"the fog has not dropped the last {MAX_UNTOLD} jobs yet, so it gets no further one")
            if (packed := self._packed.pack(job, kind)) is None:
                return NotFitted(NOTHING_LEFT)
        if (saved := packed.result()) is None:
            state = self._until_done(packed, watched)
            if state.standing is Standing.REFUSED:
                return NotFitted(f"the fog refused the job: {state.reason}")
            saved = self._take_in(packed, job, watched)
        return Fitted(saved.adapter, saved.step, float(saved.moments["loss"][0]), time.monotonic() - began)

    def _until_done(self, packed: Packed, watched: Watched) -> JobState:
        header = packed.header

        def submit() -> JobState:
            self._journal.sent_away(header.job)
            return self._calls.submit(header, *packed.contents())

        while True:
            state = self._patiently(watched, lambda: self._calls.poll(header.job))
            if state.standing is Standing.UNKNOWN:
                state = self._patiently(watched, submit)
            if state.standing in {Standing.DONE, Standing.REFUSED}:
                return state
            watched.sleep(self._settings.poll_s)

    def _take_in(self, packed: Packed, job: Job, watched: Watched) -> Checkpoint:
        """What came of a job, kept if it is an adapter of the release's exact shapes; the fog may forget the job then.

        Raises Malformed; the fog forgets the job then too, so that it is not asked for the same again.
        """
        name = packed.header.job
        result, data = self._patiently(watched, lambda: self._calls.fetch(name))
        try:
            adapter = decode_params(data, job.release.manifest.adapter_shapes, MAX_ADAPTER_BYTES)
            return packed.keep(Checkpoint(result.steps, adapter, {"loss": np.array([result.loss], np.float32)}))
        finally:
            with suppress(DewfallError):
                watched.run(lambda: self._calls.drop(name))
                self._journal.dropped(name)

    def _patiently(self, watched: Watched, work: Callable[[], Answer]) -> Answer:
        """The work's answer, however long the fog is away meanwhile. Raises Stopped and what is not an absence."""
        while True:
            try:
                answer = watched.run(work)
            except LinkDown as error:
                if str(error) != self._away:
                    log.warning("waiting for the fog to learn: %s", error)
                self._away = str(error)
                watched.sleep(self._settings.poll_s)
            else:
                self._away = ""
                return answer

    def _tidy(self) -> None:
        """Let the fog drop what nobody waits for; while a job is at work, that can wait."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            with suppress(DewfallError):
                unfinished = self._packed.unfinished()
                self._drop([name for name in self._journal.far_jobs() if name not in unfinished])
        finally:
            self._turn.release()

    def _drop(self, names: Sequence[bytes]) -> None:
        """As many as the fog can be told now."""
        with suppress(DewfallError):
            for name in names:
                self._looks.drop(name)
                self._journal.dropped(name)

    def _kind(self, calls: OffloadCalls, release: Release) -> Kind | str:
        offer = calls.offer(release.version, release.digest)
        return kind_for(release.manifest.family, offer, self._settings)


def offload_link(
    settings: AgentSettings, key: ec.EllipticCurvePrivateKey, journal: SqliteJournal, undo: ExitStack
) -> OffloadLink | None:
    """The link of a device whose owner wants one, closed by `undo`."""
    if not settings.offload.enabled:
        return None
    link = OffloadLink(settings, key, journal)
    undo.callback(link.close)
    return link
