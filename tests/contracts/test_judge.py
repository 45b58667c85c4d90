"""What every judge promises, a real one and the stand-in whose numbers a person can check."""

import threading

import numpy as np
import pytest


@pytest.fixture(scope="module", params=["real", "stand-in"])
def seen(request, stand_in_student, flow_student):
    """A judge, and samples for it: more than it looks at in one piece."""
    judge, side = (flow_student.judge, 8) if request.param == "real" else (stand_in_student.judge, 4)
    return judge, np.random.default_rng(0).uniform(-1, 1, (37, 1, side, side)).astype(np.float32)


def test_every_sample_gets_logits_of_every_condition_and_features(seen):
    judge, samples = seen
    logits, features = judge.look(samples)
    assert logits.shape == (37, 10)
    assert features.shape[0] == 37
    assert features.ndim == 2
    assert np.isfinite(logits).all()
    assert np.isfinite(features).all()


def test_a_sample_is_judged_for_itself_whatever_is_beside_it(seen):
    judge, samples = seen
    together = judge.look(samples)
    for one, other in zip(judge.look(samples[20:21]), together, strict=True):
        np.testing.assert_allclose(one, other[20:21], atol=1e-4)


def test_looking_changes_nothing(seen):
    judge, samples = seen
    before, first = samples.copy(), judge.look(samples)
    for one, other in zip(judge.look(samples), first, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(samples, before)


def test_samples_that_are_not_finite_are_looked_at_too_and_spoil_no_other(seen):
    judge, samples = seen
    odd = samples[:3].copy()
    odd[1] = np.nan
    logits, _ = judge.look(odd)
    np.testing.assert_allclose(logits[[0, 2]], judge.look(samples[:3])[0][[0, 2]], atol=1e-4)


def test_any_thread_may_ask_at_any_time(seen):
    judge, samples = seen
    expected, found = judge.look(samples)[0], []
    threads = [threading.Thread(target=lambda: found.append(judge.look(samples)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for logits in found:
        np.testing.assert_array_equal(logits, expected)
