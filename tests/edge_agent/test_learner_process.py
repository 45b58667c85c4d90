import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from edge_agent.config import Learning
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.fitting import student
from edge_agent.ports import Job
from edge_agent.values import Action, Decision, Fitted, NotFitted, Reason
from learning_core.params import zeros
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.learner_records import CHECKPOINT, decode_checkpoint

GO = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
HOT = Decision(Action.WAIT, Reason.HEAT, "the chip has 80.0 °C")
QUICK = Learning(steps=12, slice_steps=3, batch=8, patience_s=0.3)


@pytest.fixture
def job(flow_release):
    rng = np.random.default_rng(1)
    samples = Batch(rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32), rng.integers(5, 10, 20))
    shared = zeros(flow_release.manifest.adapter_shapes)
    return Job("fog-a-1-1.0", flow_release, shared, ModelVersion(1), samples, 100.0)


@pytest.fixture
def learner(tmp_path):
    learner = LearnerProcess(tmp_path / "learning", QUICK)
    yield learner
    learner.close()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def same(left, right):
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_a_fit_that_was_stopped_by_heat_and_killed_by_a_crash_ends_with_the_same_bits(learner, job, tmp_path):
    whole = LearnerProcess(tmp_path / "other", QUICK)
    uninterrupted = whole.fit(job, lambda: GO)
    whole.close()
    assert isinstance(uninterrupted, Fitted)
    assert uninterrupted.steps == 12
    assert not same(uninterrupted.adapter, job.shared)

    def until(step, then):
        """Says `then` once the checkpoint has got to `step`."""

        def decision():
            found = list((tmp_path / "learning").glob(f"*/{CHECKPOINT}"))
            return then() if found and decode_checkpoint(found[0].read_bytes()).step >= step else GO

        return decision

    stopped = learner.fit(job, until(3, lambda: HOT))
    assert isinstance(stopped, NotFitted)
    assert "80.0 °C" in stopped.reason
    assert learner.pid is None

    killed = []

    def crash():
        if learner.pid and not killed:
            killed.append(learner.pid)
            os.kill(learner.pid, signal.SIGKILL)
        return GO

    resumed = learner.fit(job, until(6, crash))
    assert killed
    assert isinstance(resumed, Fitted)
    assert same(resumed.adapter, uninterrupted.adapter)
    assert 100 < learner.peak_rss_mb < 1000


def test_the_child_has_the_lowest_priority_lingers_between_jobs_and_then_rests(learner, job):
    assert isinstance(learner.fit(job, lambda: GO), Fitted)
    pid = learner.pid
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert isinstance(learner.fit(job, lambda: GO), Fitted)  # done already: the checkpoint is the result
    assert learner.pid == pid
    learner.rest()
    assert learner.pid == pid
    learner._settings = QUICK.model_copy(update={"linger_s": 0.0})
    learner.rest()
    assert learner.pid is None
    assert not is_alive(pid)


def test_a_job_that_cannot_be_done_says_why_and_the_child_stays_usable(learner, job, tmp_path):
    shared = {name: value for name, value in job.shared.items() if name != "label_rows"}
    odd = Job("odd", job.release, shared, job.base_version, job.samples, 100.0)
    outcome = learner.fit(odd, lambda: GO)
    assert isinstance(outcome, NotFitted)
    assert "label_rows" in outcome.reason
    assert isinstance(learner.fit(job, lambda: GO), Fitted)


def test_a_job_that_takes_longer_than_its_round_is_given_up(learner, job):
    late = Job("late", job.release, job.shared, job.base_version, job.samples, 0.01)
    outcome = learner.fit(late, lambda: GO)
    assert isinstance(outcome, NotFitted)
    assert "deadline" in outcome.reason
    assert learner.pid is None


def test_nothing_is_started_while_the_device_may_not_train_and_it_goes_on_when_it_may(learner, job):
    answers = iter([HOT, HOT, HOT])
    assert isinstance(learner.fit(job, lambda: next(answers, GO)), Fitted)


PARENT = """
    import sys, threading
    from pathlib import Path
    from edge_agent.config import Learning
    from edge_agent.drivers.learner_process import LearnerProcess
    from protos.learner_records import FitCommand, encode_line
    learner = LearnerProcess(Path(sys.argv[1]), Learning())
    learner._start()
    learner._send(encode_line(FitCommand(sys.argv[2], sys.argv[3], 5, 100000, 8, 0.01, 0, 8)))
    print(learner.pid, flush=True)
    threading.Event().wait()
"""


def test_the_child_ends_at_once_when_the_agent_is_killed_in_the_middle_of_training(tmp_path, job, learner, flow_folder):
    folder = learner._prepare(job)
    arguments = [str(tmp_path / "other"), str(folder), str(flow_folder)]
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PARENT), *arguments], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    deadline = time.monotonic() + 90
    while not (folder / CHECKPOINT).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10  # the idle class may have to wait for a core
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_learner_trains_the_student_of_the_release(flow_release, flow_folder):
    model = student(flow_folder, flow_release.manifest)
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == sum(
        int(np.prod(shape)) for shape in flow_release.manifest.adapter_shapes.values()
    )
