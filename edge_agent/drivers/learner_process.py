"""Runs the learner as a child on demand: watched while it works, killed at once when the device needs it to stop."""

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from edge_agent.config import Learning
from edge_agent.drivers.child import end
from edge_agent.drivers.learner_group import LearnerGroup
from edge_agent.ports import Job
from edge_agent.values import Action, Decision, Fitted, NotFitted
from learning_core.errors import Malformed
from protos.codec import encode_params
from protos.learner_records import (
    CHECKPOINT,
    OUT_OF_MEMORY,
    SAMPLES,
    SHARED,
    Failed,
    FitCommand,
    Progress,
    decode_checkpoint,
    decode_line,
    encode_line,
    encode_samples,
)
from protos.state_folder import write_atomically

log = logging.getLogger(__name__)
WATCH_S = 0.1
MAX_CRASHES = 2
ENDING_S = 2.0  # from a child's last word to its exit status
LEAST_BATCH = 2  # one sample to learn and one to rehearse


class LearnerProcess:
    """At most one child at a time. Saved as the checkpoint of the job at hand; the child itself is worth nothing."""

    def __init__(self, folder: Path, settings: Learning, group: LearnerGroup | None = None) -> None:
        self._folder = folder
        self._settings = settings
        self.group = group or LearnerGroup()
        self._child: subprocess.Popen[bytes] | None = None
        self._said: SimpleQueue[bytes | None] = SimpleQueue()
        self._turn = threading.Lock()
        self._idle_since_s = time.monotonic()
        self._closed = False
        self._halted = threading.Event()
        self.peak_rss_mb = 0.0

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted:
        """Train as long as `decision` allows; wait a little when it does not; give up with the reason."""
        with self._turn:
            try:
                return self._fit(job, decision)
            finally:
                self._idle_since_s = time.monotonic()

    @property
    def confinement(self) -> str:
        """What holds the learner, in words."""
        return f"{self.group.says}; at most {self._settings.max_memory_mib} MiB of data, the lowest priority"

    def rest(self) -> None:
        """End a child that has been idle for longer than it may linger."""
        if self._turn.acquire(blocking=False):
            try:
                if self.pid and time.monotonic() - self._idle_since_s > self._settings.linger_s:
                    self._kill()
            finally:
                self._turn.release()

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Inside, the job at hand is given up, and one that comes is refused; no child is left that knows samples."""
        self._halted.set()
        try:
            self._kill()
            yield
        finally:
            self._halted.clear()

    def close(self) -> None:
        """Kill the child, whatever it is doing; its job can go on from the checkpoint another time."""
        self._closed = True
        self._kill()

    def _fit(self, job: Job, decision: Callable[[], Decision]) -> Fitted | NotFitted:
        began = time.monotonic()
        until = began + job.deadline_s
        folder = self._prepare(job)
        crashes = 0
        while not self._halted.is_set():
            outcome = self._attempt(self._command(job, folder), decision, until)
            match outcome:
                case Progress():
                    adapter = decode_checkpoint((folder / CHECKPOINT).read_bytes()).adapter
                    return Fitted(adapter, outcome.step, outcome.loss, time.monotonic() - began)
                case Decision():
                    log.info("training of %s stopped: %s", job.name, outcome.sentence)
                    if not self._wait_for_leave(decision, until):
                        return NotFitted(f"training was stopped ({outcome.reason}): {outcome.sentence}")
                case NotFitted():
                    return outcome
                case None if self._closed:
                    return NotFitted("the agent is stopping")
                case None:
                    crashes += 1
                    if crashes > MAX_CRASHES:
                        return NotFitted("the learner process keeps ending; see the agent's log")
                    log.warning("the learner ended unexpectedly; going on from its checkpoint")
        return NotFitted("samples are being forgotten")

    def _attempt(
        self, command: FitCommand, decision: Callable[[], Decision], until: float
    ) -> Progress | Decision | NotFitted | None:
        """One child's work on the job: its last word, what stopped it, or None when it died."""
        self._start()
        kills = self.group.kills()
        if not self._send(encode_line(command)):
            return self._ended(kills)
        while True:
            if (now := decision()).action is not Action.TRAIN:
                self._kill()
                return now
            if self._halted.is_set():
                self._kill()
                return NotFitted("samples are being forgotten")
            if time.monotonic() > until:
                self._kill()
                return NotFitted("training did not end before the round's deadline")
            try:
                line = self._said.get(timeout=WATCH_S)
            except Empty:
                continue
            if line is None:
                return self._ended(kills)
            message = _understood(line)
            if isinstance(message, Failed):
                return NotFitted(f"training failed: {message.reason}")
            if isinstance(message, Progress):
                self.peak_rss_mb = max(self.peak_rss_mb, message.rss_mb)
                if message.step >= command.steps:
                    return message

    def _ended(self, kills: int) -> NotFitted | None:
        """What to make of a child that is gone: too little memory, or nothing known."""
        child = self._child
        if child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its last word came a little before its end
                child.wait(ENDING_S)
        self._kill()
        status = None if child is None else child.returncode
        if status not in {OUT_OF_MEMORY, -signal.SIGABRT} and self.group.kills() <= kills:
            return None
        most = self._settings.max_memory_mib
        return NotFitted(
            f"the learner needs more than the {most} MiB of learning.max_memory_mib; raise it or lower learning.batch"
        )

    def _wait_for_leave(self, decision: Callable[[], Decision], until: float) -> bool:
        until = min(until, time.monotonic() + self._settings.patience_s)
        while time.monotonic() < until:
            if decision().action is Action.TRAIN:
                return True
            time.sleep(WATCH_S)
        return False

    def _prepare(self, job: Job) -> Path:
        """The job's folder: as it was left when the same job comes again, else a new one in place of all others."""
        samples, shared = encode_samples(job.samples), encode_params(job.shared)
        what = repr((job.name, job.release.digest, self._settings)).encode()
        folder = self._folder / hashlib.sha256(b"|".join((what, samples, shared))).hexdigest()[:16]
        if not folder.exists():
            shutil.rmtree(self._folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for name, data in ((SAMPLES, samples), (SHARED, shared)):
            if not (folder / name).exists():
                write_atomically(folder / name, data)
        return folder

    def _command(self, job: Job, folder: Path) -> FitCommand:
        chosen = self._settings
        seed = int.from_bytes(hashlib.sha256(f"{chosen.seed}/{job.name}".encode()).digest()[:4], "big")
        return FitCommand(
            folder=str(folder),
            release=job.release.folder,
            slice_steps=chosen.slice_steps,
            steps=max(1, round(chosen.steps * job.shape.steps)),
            batch=max(LEAST_BATCH, round(chosen.batch * job.shape.batch)),
            learning_rate=chosen.learning_rate,
            seed=seed,
            rank=job.shape.rank or job.release.manifest.rank,
        )

    def _start(self) -> None:
        if self.pid is not None:
            return
        settings = self._settings
        program = [sys.executable, "-m", "edge_agent.learner", str(settings.max_memory_mib)]
        arguments = [*program, *(["--nice"] * (settings.scheduling == "nice"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": "1"}
        child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        if self.group.folder is not None and not self.group.take(child.pid):
            self.group = LearnerGroup(None, "no cgroup of its own: the learner could not be put into it")
        said: SimpleQueue[bytes | None] = SimpleQueue()
        threading.Thread(target=_listen, args=(child, said), name="learner", daemon=True).start()
        self._child, self._said = child, said

    def _send(self, line: bytes) -> bool:
        if self._child is None or self._child.stdin is None:
            return False
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except OSError:
            return False
        return True

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            end(child)


def _listen(child: "subprocess.Popen[bytes]", said: "SimpleQueue[bytes | None]") -> None:
    if child.stdout is not None:
        with child.stdout as lines:
            for line in lines:
                said.put(line)
    said.put(None)


def _understood(line: bytes) -> Progress | Failed | None:
    try:
        message = decode_line(line)
    except Malformed as error:
        return Failed(str(error))
    return message if isinstance(message, Progress | Failed) else None
