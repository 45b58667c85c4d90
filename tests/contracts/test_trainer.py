"""What of a trainer's promises the stand-ins of other tests keep; `test_offload` asks the real ones for all of them."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import test_participation
import test_personal
from crash_world import StandInLearner
from stand_in_release import bad_adapter, zero_adapter

from edge_agent.config import Learning
from edge_agent.offload import Trainers
from edge_agent.ports import Job
from edge_agent.values import Action, Decision, Fitted, NotFitted, Reason
from learning_core.params import shapes_of
from learning_core.samples import Batch
from learning_core.updates import ModelVersion

HERE = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
AWAY = Decision(Action.OFFLOAD, Reason.HEAT, "the chip has 80.0 °C; the fog may learn in its place")
PAUSED = Decision(Action.SERVE_ONLY, Reason.PAUSED, "training is paused by the user; resume it to go on")
WHO = ("participation's", "personal's", "crash world's", "both, here", "both, away")


@pytest.fixture(params=WHO)
def trainer(request, tmp_path):
    """A trainer, and the decision under which it works."""
    near = StandInLearner(tmp_path / "learning", Learning(patience_s=0.0))
    far = test_participation.StandInTrainer(bad_adapter())
    return {
        "participation's": (far, HERE),
        "personal's": (test_personal.StandInTrainer(bad_adapter()), HERE),
        "crash world's": (near, HERE),
        "both, here": (Trainers(near, far), HERE),
        "both, away": (Trainers(near, far), AWAY),
    }[request.param]


@pytest.fixture
def job(stand_in_release):
    rng = np.random.default_rng(0)
    samples = Batch(rng.uniform(-1, 1, (8, 1, 4, 4)).astype(np.float32), np.arange(8) % 5)
    return Job("fog-a-1-1.0", stand_in_release, zero_adapter(), ModelVersion(1), samples, 10.0)


def test_a_fit_gives_an_adapter_of_the_jobs_exact_shapes_and_how_it_went(trainer, job):
    fitted = trainer[0].fit(job, lambda: trainer[1])
    assert isinstance(fitted, Fitted)
    assert shapes_of(fitted.adapter) == shapes_of(job.shared) == dict(job.release.manifest.adapter_shapes)
    assert fitted.steps >= 1
    assert np.isfinite(fitted.loss)
    assert fitted.seconds >= 0


def test_the_same_job_comes_to_the_same_end_and_stays_as_it_is(trainer, job):
    before = copy.deepcopy((job.shared, job.samples))
    first, again = (trainer[0].fit(job, lambda: trainer[1]) for _ in range(2))
    for name, value in first.adapter.items():
        np.testing.assert_array_equal(again.adapter[name], value)
        np.testing.assert_array_equal(job.shared[name], before[0][name])
    np.testing.assert_array_equal(job.samples.features, before[1].features)


def test_where_the_decision_allows_no_learning_there_is_none_and_the_decision_is_why(trainer, job):
    outcome = trainer[0].fit(job, lambda: PAUSED)
    assert isinstance(outcome, NotFitted)
    assert PAUSED.sentence in outcome.reason


def test_without_a_fog_that_learns_a_job_for_it_is_told_what_to_do(job, tmp_path):
    near = SimpleNamespace(fit=lambda *_: pytest.fail("it was not to learn"), halted=nullcontext)
    outcome = Trainers(near, None).fit(job, lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert "offload.enabled" in outcome.reason
