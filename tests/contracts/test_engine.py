"""What every engine promises: the float32 and the int8 graph, one with healed outputs beside it, and the stand-ins."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from test_healing_device import Gone, Halfway

from edge_agent.healed_engine import HealedEngine
from edge_agent.healing.cache import HealedOutputs
from learning_core.errors import Malformed

HEALED, NEW = 3, 7  # a condition of which there are healed outputs; one that only the adapter knows
STEPS, GUIDANCE = 4, 1.5


def beside(engine, shape):
    """Two healed outputs of one condition."""
    keys = np.eye(1, 4, dtype=np.float32).repeat(2, axis=0)
    centroids = np.zeros((10, 4), np.float32)
    centroids[HEALED, 0] = 1
    outputs = np.stack([np.full(shape, value, np.float32) for value in (0.25, 0.75)])
    return HealedEngine(engine, HealedOutputs(keys, outputs, centroids, 0.5))


@pytest.fixture(
    scope="module",
    params=["stand-in graph", "float32", "int8", "healed float32", "healed int8", "one gone bad", "one that hurries"],
)
def student(request, stand_in_student, flow_student):
    """`engine`, adapter `inputs` that fit it, the `shape` of a sample."""
    small, real = (stand_in_student, (1, 4, 4)), (flow_student, (1, 8, 8))
    (of, shape), engine = {
        "stand-in graph": (small, lambda of: of.engine),
        "float32": (real, lambda of: of.engine),
        "int8": (real, lambda of: of.integers),
        "healed float32": (real, lambda of: beside(of.engine, (1, 8, 8))),
        "healed int8": (real, lambda of: beside(of.integers, (1, 8, 8))),
        "one gone bad": (small, lambda of: Gone(of.engine)),
        "one that hurries": (small, lambda of: Halfway(of.engine)),
    }[request.param]
    return SimpleNamespace(engine=engine(of), inputs=of.inputs, shape=shape)


def asked(student, rows=6, seed=0):
    """Noise and conditions, the healed and the new one among them."""
    noise = np.random.default_rng(seed).standard_normal((rows, *student.shape), np.float32)
    return noise, np.resize(np.array([0, HEALED, NEW, 4]), rows)


def draw(engine, noise, conditions):
    return engine.generate(noise, conditions, STEPS, GUIDANCE)


def test_samples_are_finite_and_of_the_shape_of_their_noise(student):
    for rows in (1, 6, 40):
        samples = draw(student.engine, *asked(student, rows))
        assert (samples.shape, samples.dtype) == ((rows, *student.shape), np.float32)
        assert np.isfinite(samples).all()


def test_equal_noise_and_conditions_give_equal_samples_and_are_left_as_they_were(student):
    noise, conditions = asked(student)
    before = noise.copy(), conditions.copy()
    first = draw(student.engine, noise, conditions)
    np.testing.assert_array_equal(draw(student.engine, noise, conditions), first)
    np.testing.assert_array_equal(noise, before[0])
    np.testing.assert_array_equal(conditions, before[1])


def test_samples_are_the_callers_who_may_write_on_them(student):
    noise, conditions = asked(student)
    first = draw(student.engine, noise, conditions)
    first_alone = draw(student.engine, noise[1:2], conditions[1:2])
    kept, kept_alone = first.copy(), first_alone.copy()
    first[:], first_alone[:] = 9, 9
    np.testing.assert_array_equal(draw(student.engine, noise, conditions), kept)
    np.testing.assert_array_equal(draw(student.engine, noise[1:2], conditions[1:2]), kept_alone)


def test_each_row_is_of_its_own_noise_and_condition(student):
    noise, conditions = asked(student)
    together = draw(student.engine, noise, conditions)
    order = np.array([5, 3, 1, 4, 2, 0])
    np.testing.assert_allclose(draw(student.engine, noise[order], conditions[order]), together[order], atol=0.02)
    alone = np.concatenate([draw(student.engine, noise[at : at + 1], conditions[at : at + 1]) for at in range(6)])
    np.testing.assert_allclose(alone, together, atol=0.02)  # integers are rounded by the largest of a batch


def test_an_adapter_makes_another_engine_and_changes_none(student):
    noise, conditions = asked(student)
    base = draw(student.engine, noise, conditions)
    adapted = student.engine.adapted(student.inputs)
    learned = draw(adapted, noise, conditions)
    assert np.abs(learned - base)[conditions == NEW].max() > 0.01
    np.testing.assert_array_equal(draw(student.engine, noise, conditions), base)
    np.testing.assert_array_equal(draw(adapted.adapted(None), noise, conditions), base)
    np.testing.assert_array_equal(draw(student.engine.adapted(None), noise, conditions), base)
    np.testing.assert_array_equal(draw(adapted, noise, conditions), learned)
    np.testing.assert_array_equal(draw(adapted.adapted(student.inputs), noise, conditions), learned)


def test_an_adapter_that_does_not_fit_exactly_is_refused(student):
    first, *rest = student.inputs
    without = {name: student.inputs[name] for name in rest}
    for odd in ({}, without, student.inputs | {"more": np.zeros(1, np.float32)}):
        with pytest.raises(Malformed):
            student.engine.adapted(odd)
    with pytest.raises(Malformed, match=first):
        student.engine.adapted(student.inputs | {first: student.inputs[first][..., None]})


def test_what_samples_are_about_is_asked_of_the_student_without_any_adapter(student):
    features, _ = asked(student)
    about = student.engine.embed(features)
    assert (about.ndim, len(about), about.dtype) == (2, len(features), np.float32)
    np.testing.assert_array_equal(student.engine.adapted(student.inputs).embed(features), about)
    np.testing.assert_allclose(student.engine.embed(features[2:3]), about[2:3], atol=0.05)


def test_any_thread_may_ask_at_any_time(student):
    expected = [draw(student.engine, *asked(student, 1 + seed % 2, seed)) for seed in range(4)]
    found = [None] * 4

    def ask(seed):
        for _ in range(5):
            found[seed] = draw(student.engine, *asked(student, 1 + seed % 2, seed))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
