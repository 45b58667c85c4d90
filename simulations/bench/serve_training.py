"""How slow the slowest answers get while a real learner child trains beside them, at its own scheduling class."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.config import Learning
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.ports import Job, Release
from edge_agent.serving import Serving, served_with
from edge_agent.values import Action, Decision, Reason
from learning_core.errors import DewfallError
from learning_core.params import zeros
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from simulations.bench.serve_requests import time_requests

STEPS = 100_000  # more than there is time for
SAMPLES = 64
START_S = 60.0  # until the child has loaded its libraries and trains


@dataclass(frozen=True, slots=True)
class Blocks:
    """Milliseconds of every request, a list for each block; idle and training blocks took turns."""

    idle_ms: tuple[tuple[float, ...], ...]
    training_ms: tuple[tuple[float, ...], ...]
    scheduling: str  # the learner's class, as the kernel names it
    learner_cores: float  # what the learner got of a core in its blocks


def time_blocks(folder: Path, release: Release, blocks: int, seconds: float, progress: Callable[[str], None]) -> Blocks:
    """`blocks` of each kind. In an idle one the child is stopped, so that it holds the same memory in both."""
    serving = Serving()
    serving.serve(served_with(release, None))
    learner = LearnerProcess(folder, Learning(steps=STEPS))
    learning = threading.Thread(target=_learn, args=(learner, release), daemon=True)
    learning.start()
    idle: list[tuple[float, ...]] = []
    training: list[tuple[float, ...]] = []
    learned_s = 0.0
    try:
        pid = _trains(learner, progress)
        scheduling = {os.SCHED_IDLE: "SCHED_IDLE", os.SCHED_OTHER: "SCHED_OTHER"}[os.sched_getscheduler(pid)]
        for block in range(2 * blocks):
            trains = block % 4 in {1, 2}  # idle, training, training, idle: a drift of the machine hits both alike
            progress(f"requests beside {'a learner at work' if trains else 'a learner that stands still'}")
            os.kill(pid, signal.SIGCONT if trains else signal.SIGSTOP)
            time.sleep(0.2)
            before = _core_s(pid)
            (training if trains else idle).append(tuple(time_requests(serving, seconds)))
            learned_s += (_core_s(pid) - before) * trains
        os.kill(pid, signal.SIGCONT)
    finally:
        learner.close()
        learning.join(10)
    return Blocks(tuple(idle), tuple(training), scheduling, learned_s / (blocks * seconds))


def _learn(learner: LearnerProcess, release: Release) -> None:
    rng, manifest = np.random.default_rng(0), release.manifest
    features = rng.uniform(-1, 1, (SAMPLES, *release.sample_shape)).astype(np.float32)
    unknown = sorted(set(range(manifest.num_conditions)) - set(manifest.known_conditions))
    batch = Batch(features, rng.choice(unknown, SAMPLES))
    job = Job("bench", release, zeros(manifest.adapter_shapes), ModelVersion(1), batch, deadline_s=3600.0)
    learner.fit(job, lambda: Decision(Action.TRAIN, Reason.READY, "the benchmark asks for it"))


def _trains(learner: LearnerProcess, progress: Callable[[str], None]) -> int:
    """The child's id, once it has said that it got on."""
    progress("a learner starts")
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if (pid := learner.pid) is not None and learner.peak_rss_mb > 0:
            return pid
        time.sleep(0.1)
    raise DewfallError(f"the learner did not train within {START_S:.0f} s; is this machine very busy?")


def _core_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
