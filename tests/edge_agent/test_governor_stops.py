"""A breach ends a learner that is at work: real processes, real time."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from edge_agent.config import Learning, Limits, TelemetrySettings
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.governor import Situation
from edge_agent.ports import Job
from edge_agent.values import NotFitted, Quality, Reading, Shape, Telemetry
from edge_agent.watch import Watch
from learning_core.params import zeros
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.learner_records import CHECKPOINT

FINE = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=99)


class Chip:
    def __init__(self):
        self.temp_c = 50.0

    def read(self):
        readings = [Reading(value, "", 0.0, Quality.OK, "test") for value in (self.temp_c, 0.0, 1.0, 1.0)]
        return Telemetry(*readings)


@pytest.fixture
def job(flow_release):
    rng = np.random.default_rng(1)
    samples = Batch(rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32), rng.integers(5, 10, 20))
    shared = zeros(flow_release.manifest.adapter_shapes)
    return Job("fog-a-1-1.0", flow_release, shared, ModelVersion(1), samples, 100.0)


def test_a_breach_stops_a_learner_that_is_at_work_within_a_second(tmp_path, job):
    learner = LearnerProcess(tmp_path / "learning", Learning(steps=1_000_000, slice_steps=5, patience_s=0.0))
    chip, done = Chip(), threading.Event()
    watch = Watch(chip, Limits(), lambda: FINE, lambda _: None)
    watch.look()

    def keep_looking():
        while not done.wait(TelemetrySettings().interval_s):
            watch.look()

    outcomes = []
    looking = threading.Thread(target=keep_looking)
    fitting = threading.Thread(target=lambda: outcomes.append(learner.fit(job, watch.decision)))
    try:
        looking.start()
        fitting.start()
        until = time.monotonic() + 90
        while not list((tmp_path / "learning").glob(f"*/{CHECKPOINT}")):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert learner.pid is not None
        chip.temp_c, breached_s = 80.0, time.monotonic()
        while learner.pid is not None:
            assert time.monotonic() - breached_s < 5
            time.sleep(0.005)
        took_s = time.monotonic() - breached_s
    finally:
        done.set()
        learner.close()
        looking.join()
        fitting.join()
    assert took_s < 1.0
    assert isinstance(outcomes[0], NotFitted)
    assert "80.0 °C" in outcomes[0].reason


def test_a_device_with_little_room_does_a_shorter_job(tmp_path, job):
    learner = LearnerProcess(tmp_path / "learning", Learning(steps=60))
    commands = [learner._command(replace(job, shape=Shape(share)), tmp_path) for share in (1.0, 0.25, 0.001)]
    assert [command.steps for command in commands] == [60, 15, 1]
