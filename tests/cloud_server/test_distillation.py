import numpy as np
import pytest
import torch

from cloud_server.distillation import Base, distil, merged, pool, speakers
from cloud_server.measurement import Sampler, assess, balanced, draw, exam, golden_set, noise_for
from learning_core.models.flow_image import FlowImageConfig, flow_image_of, new_flow_image
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes, start_factors
from learning_core.models.weights import weights_of
from learning_core.params import zeros
from learning_core.samples import Batch

CONFIG = FlowImageConfig(side=4, width=8, depth=1, heads=2, num_conditions=4)
KNOWN = (0, 1)
SAMPLER = Sampler(2, 1.5)


def lively(config: FlowImageConfig, seed: int) -> dict[str, np.ndarray]:
    """Weights that make something of their input (a fresh model's last layer is zero)."""
    rng = np.random.default_rng(seed)
    return {
        name: value + rng.normal(0, 0.2, value.shape).astype(np.float32)
        for name, value in weights_of(new_flow_image(config, seed)).items()
    }


BASE = Base(CONFIG, lively(CONFIG, 0), start_factors(CONFIG, 2, 0), 4.0, KNOWN)


def silent(step: str, done: int, of: int) -> None:
    pass


def test_merging_a_zero_adapter_gives_the_base():
    weights = merged(BASE, zeros(adapter_shapes(CONFIG, 2, KNOWN)))
    assert weights.keys() == BASE.weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, BASE.weights[name])


def test_merging_moves_the_label_row_of_a_new_condition_and_no_other():
    adapter = zeros(adapter_shapes(CONFIG, 2, KNOWN))
    adapter["label_rows"] = np.ones_like(adapter["label_rows"])
    moved = merged(BASE, adapter)["label.weight"] - BASE.weights["label.weight"]
    np.testing.assert_allclose(moved, np.repeat([[0], [0], [1], [1], [0]], CONFIG.width, axis=1), atol=1e-6)


def test_each_condition_is_spoken_for_once_by_who_knows_it_best():
    teacher = new_flow_image(FlowImageConfig(side=4, width=16, depth=1, heads=2, num_conditions=4), 0)
    later = Base(CONFIG, BASE.weights, BASE.start, 4.0, (0, 1, 2))
    parts = speakers(later, Sampler(2, 1.0), teacher, (0, 1), BASE.weights, SAMPLER, Sampler(2, 2.0))
    assert [part.conditions for part in parts] == [(0, 1), (2,), (3,)]
    assert parts[0].model is teacher
    assert [part.sampler.guidance for part in parts] == [1.5, 1.0, 2.0]
    everything = Base(CONFIG, BASE.weights, BASE.start, 4.0, (0, 1, 2, 3))
    assert len(speakers(everything, SAMPLER, teacher, (0, 1, 2, 3), BASE.weights, SAMPLER, SAMPLER)) == 1


def test_the_pool_is_balanced_bounded_and_the_same_for_one_seed():
    teacher = flow_image_of(CONFIG, lively(CONFIG, 1))
    parts = speakers(BASE, SAMPLER, teacher, KNOWN, BASE.weights, SAMPLER, SAMPLER)
    first, second, other = pool(parts, 42, 0), pool(parts, 42, 0), pool(parts, 42, 1)
    assert np.bincount(first.conditions).tolist() == [10, 10, 10, 10]
    assert np.abs(first.features).max() <= 1.0
    assert first.features.dtype == np.float32
    np.testing.assert_array_equal(first.features, second.features)
    assert not np.array_equal(first.features, other.features)


def test_distilling_starts_from_the_given_weights_and_gets_closer_to_the_pool():
    images = np.full((64, 1, 4, 4), 0.5, np.float32)
    samples = Batch(images, np.zeros(64, np.int64))
    student = distil(CONFIG, BASE.weights, samples, 60, 5e-3, 0, silent)
    noise, asked = noise_for(student, 8, 0), np.zeros(8, np.int64)
    before = draw(flow_image_of(CONFIG, BASE.weights), noise, asked, Sampler(4, 1.0))
    after = draw(student, noise, asked, Sampler(4, 1.0))
    assert np.abs(after - 0.5).mean() < 0.7 * np.abs(before - 0.5).mean()


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    model = flow_image_of(CONFIG, BASE.weights)
    noise, asked = noise_for(model, 7, 0), balanced([3], 7)
    whole = draw(model, noise, asked, SAMPLER)
    monkeypatch.setattr("cloud_server.measurement.ROWS", 3)
    np.testing.assert_allclose(draw(model, noise, asked, SAMPLER), whole, atol=1e-5)


def fresh_judge() -> Judge:
    torch.manual_seed(0)
    return Judge(1, 4, 4).eval()


def test_a_quality_covers_all_conditions_and_parts_them_into_old_and_new():
    judge = fresh_judge()
    held_out = Batch(np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32), balanced(range(4), 10))
    images, asked = exam(flow_image_of(CONFIG, BASE.weights), range(4), SAMPLER, 5, 0)
    some, everything = assess(images, asked, judge, held_out, KNOWN), assess(images, asked, judge, held_out, range(4))
    assert set(some.fidelity) == {0, 1, 2, 3}
    assert some.images_per_condition == 5
    assert some.kid_new is not None
    assert everything.kid_new is None
    assert everything.fidelity == some.fidelity


def test_the_golden_set_asks_for_known_conditions_only_and_holds_its_own_figures():
    judge = fresh_judge()
    held_out = Batch(np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32), balanced(range(4), 10))
    golden = golden_set(flow_image_of(CONFIG, BASE.weights), judge, held_out, KNOWN, SAMPLER, 10, 0)
    assert golden["conditions"].tolist() == [0] * 5 + [1] * 5
    assert golden["noise"].shape == (10, 1, 4, 4)
    assert golden["real_features"].shape == (20, 64)
    assert golden["base_fidelity"].shape == golden["base_kid"].shape == (1,)
    assert 0 <= golden["base_fidelity"][0] <= 1
