"""The learner is held in its own cgroup where that is allowed, in its memory everywhere, and ends in a sentence."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Learning
from edge_agent.drivers.learner_group import LearnerGroup, open_group, parse_kills, parse_own_path
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.ports import Job
from edge_agent.values import Action, Decision, NotFitted, Reason
from learning_core.params import zeros
from learning_core.samples import Batch
from learning_core.updates import ModelVersion

GO = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
SERVICE = "system.slice/dewfall-edge.service"
FILES = ("cgroup.procs", "cpu.weight", "memory.max", "cpu.pressure", "memory.events")


@pytest.fixture
def service(tmp_path):
    """A root whose kernel gave the service its cgroup; the folder of that cgroup."""

    def make(path=f"0::/{SERVICE}\n", mount="sys/fs/cgroup"):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(path)
        (tmp_path / mount).mkdir(parents=True)
        (tmp_path / mount / "cgroup.controllers").write_text("cpu memory\n")
        folder = tmp_path / mount / SERVICE
        for name in ("agent", "learner"):
            (folder / name).mkdir(parents=True)
            for file in FILES:
                (folder / name / file).write_text("")
        (folder / "cgroup.subtree_control").write_text("")
        (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
        return folder

    return make


def test_a_delegated_service_is_divided_into_agent_and_learner(service, tmp_path):
    folder = service()
    group = open_group(tmp_path, 512)
    assert group.says == f"cgroup /{SERVICE}/learner with cpu.weight 1 and memory.max 512 MiB"
    assert (folder / "agent/cgroup.procs").read_text() == str(os.getpid())
    assert (folder / "learner/cpu.weight").read_text() == "1"
    assert (folder / "learner/memory.max").read_text() == str(512 << 20)
    assert group.take(4321)
    assert (folder / "learner/cgroup.procs").read_text() == "4321"


def test_an_agent_that_starts_in_its_half_finds_the_same_groups(service, tmp_path):
    service(f"1:name=systemd:/\n0::/{SERVICE}/agent\n", "sys/fs/cgroup/unified")
    assert open_group(tmp_path, 512).says.startswith(f"cgroup /{SERVICE}/learner with")


def test_a_controller_that_is_not_handed_down_is_named_and_the_others_hold(service, tmp_path):
    folder = service()
    (folder / "learner/memory.max").unlink()
    group = open_group(tmp_path, 512)
    assert group.says.endswith("with cpu.weight 1, not allowed: memory.max 512 MiB")
    assert group.folder == folder / "learner"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("0::/\n", "does not run as a service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "does not run as a service"),
        ("4:memory:/x\n", "no cgroup v2"),
        ("0::/../../elsewhere.service\n", "outside"),
        ("0::/other.slice/dewfall-edge.service\n", "other programs"),
    ],
)
def test_where_it_is_not_allowed_it_says_why_and_touches_nothing(service, tmp_path, path, why):
    folder = service(path)
    group = open_group(tmp_path, 512)
    assert why in group.says
    assert (group.folder, group.take(1), group.pressure(), group.kills()) == (None, False, None, 0)
    assert (folder / "agent/cgroup.procs").read_text() == ""


def test_a_service_shared_with_others_is_left_alone_and_one_that_may_not_be_divided_says_so(service, tmp_path):
    folder = service()
    (folder / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")  # as under cron
    assert "other programs live in its cgroup" in open_group(tmp_path, 512).says
    assert (folder / "agent/cgroup.procs").read_text() == ""
    (folder / "cgroup.procs").write_text("")
    (folder / "agent/cgroup.procs").unlink()
    assert "may not move itself" in open_group(tmp_path, 512).says


def test_a_learner_that_cannot_be_put_into_its_group_is_not_said_to_be_there(tmp_path):
    learner = LearnerProcess(tmp_path / "learning", Learning(steps=1, slice_steps=1), LearnerGroup(tmp_path, "here"))
    try:
        learner._start()
        assert learner.confinement.startswith("no cgroup of its own: the learner could not be put into it")
    finally:
        learner.close()


def test_a_learner_has_the_memory_of_its_group_for_itself(tmp_path):
    for name in ("cgroup.procs", "cgroup.kill"):
        (tmp_path / name).write_text("")
    assert LearnerGroup(tmp_path, "here").take(4321)
    assert (tmp_path / "cgroup.kill").read_text() == "1"  # the kernel then ends who is still in it
    assert (tmp_path / "cgroup.procs").read_text() == "4321"


def test_a_root_without_any_cgroup_says_so(tmp_path):
    assert open_group(tmp_path, 512).says == "no cgroup of its own: this kernel has no cgroup v2"


def test_a_group_tells_its_own_pressure_and_what_the_kernel_killed(tmp_path):
    group = LearnerGroup(tmp_path, "")
    assert (group.pressure(), group.kills()) == (None, 0)
    (tmp_path / "cpu.pressure").write_text("some avg10=37.50 avg60=1.00 avg300=0.00 total=9\nfull avg10=1.00 ")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert (group.pressure(), group.kills()) == (0.375, 1)


@given(st.text())
def test_no_text_of_a_kernel_breaks_a_parser(text):
    for parse in (parse_own_path, parse_kills):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.fixture
def job(flow_release):
    rng = np.random.default_rng(1)
    samples = Batch(rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32), rng.integers(5, 10, 20))
    return Job("a", flow_release, zeros(flow_release.manifest.adapter_shapes), ModelVersion(1), samples, 100.0)


@pytest.mark.parametrize(("mib", "batch"), [(280, 4096), (64, 8)])
def test_a_learner_that_needs_too_much_memory_ends_with_a_sentence_and_the_next_job_starts_another(
    tmp_path, job, mib, batch
):
    """The first runs out while it learns, the second already while it loads its libraries."""
    small = Learning(steps=2, slice_steps=1, batch=batch, max_memory_mib=mib)
    learner = LearnerProcess(tmp_path / "learning", small)
    try:
        outcome = learner.fit(job, lambda: GO)
        assert isinstance(outcome, NotFitted)
        assert f"more than the {mib} MiB of learning.max_memory_mib" in outcome.reason
        assert learner.pid is None
        learner._settings = Learning(steps=1, slice_steps=1, batch=4)
        assert not isinstance(learner.fit(job, lambda: GO), NotFitted)
    finally:
        learner.close()


def test_the_limit_is_the_kernels():
    program = "from edge_agent.learner import keep_within; keep_within(64); bytearray(1 << 30)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("MemoryError\n")


def test_a_learner_is_put_into_its_group_when_it_starts(tmp_path):
    for file in FILES:
        (tmp_path / file).write_text("")
    learner = LearnerProcess(tmp_path / "learning", Learning(steps=1, slice_steps=1), LearnerGroup(tmp_path, "here"))
    try:
        learner._start()
        assert (tmp_path / "cgroup.procs").read_text() == str(learner.pid)
        assert learner.confinement.startswith("here; at most 1024 MiB")
    finally:
        learner.close()


def test_a_learner_that_the_kernel_killed_for_memory_is_not_started_again(tmp_path, job):
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    learner = LearnerProcess(tmp_path / "learning", Learning(steps=10_000), LearnerGroup(tmp_path, "here"))

    def kill():
        if learner.pid:
            (tmp_path / "memory.events").write_text("oom_kill 1\n")
            os.kill(learner.pid, 9)
        return GO

    try:
        outcome = learner.fit(job, kill)
        assert isinstance(outcome, NotFitted)
        assert "learning.max_memory_mib" in outcome.reason
    finally:
        learner.close()
