import numpy as np
import pytest
import torch

from learning_core.models.flow_image import FlowImage, FlowImageConfig, generate, new_flow_image
from learning_core.models.pretraining import pretrain
from learning_core.models.reflow import Pairs, curvature, straight_points, straighten, teacher_pairs
from learning_core.models.weights import weights_of
from learning_core.samples import Batch

TINY = FlowImageConfig(side=4, patch=2, width=16, depth=1, heads=2, num_conditions=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def teacher() -> FlowImage:
    """Draws images of 0 nearly white or nearly black, each half of the time: paths that have to bend."""
    sides = np.random.default_rng(0).choice([-0.8, 0.8], 128)
    images = sides[:, None, None, None] * np.ones((128, 1, 4, 4))
    model = new_flow_image(TINY, 0)
    pretrain(model, Batch(images.astype(np.float32), np.zeros(128, np.int64)), 150, 2e-2, seed=0, batch=64)
    return model


def test_a_point_between_noise_and_image_asks_for_the_whole_way():
    pairs = Pairs(torch.full((6, 1, 2, 2), -2.0), torch.full((6, 1, 2, 2), 1.0), torch.arange(6))
    points = straight_points(pairs, seeded())
    torch.testing.assert_close(points.x[:, 0, 0, 0], -2 + 3 * points.t)
    assert torch.equal(points.velocity, torch.full((6, 1, 2, 2), 3.0))
    assert torch.equal(points.y, pairs.conditions)


def test_half_of_the_points_lie_at_the_start():
    many = Pairs(torch.zeros(2000, 1, 1, 1), torch.ones(2000, 1, 1, 1), torch.zeros(2000, dtype=torch.long))
    t = straight_points(many, seeded()).t
    assert 0.45 < (t < 0.02).float().mean() < 0.57
    assert t.max() > 0.95


def test_pairs_hold_what_the_teacher_makes_of_their_noise(teacher):
    pairs = teacher_pairs(teacher, torch.tensor([0, 0, 1]), 4, 1.5, seeded())
    torch.testing.assert_close(pairs.images, generate(teacher, pairs.noise, pairs.conditions, 4, 1.5).clamp(-1, 1))
    assert pairs.conditions.tolist() == [0, 0, 1]


def test_no_conditions_make_no_pairs_and_no_pairs_teach_nothing(teacher):
    none = teacher_pairs(teacher, torch.zeros(0, dtype=torch.long), 4, 1.0, seeded())
    assert none.images.shape == none.noise.shape == (0, 1, 4, 4)
    with pytest.raises(ValueError, match="nothing to learn from"):
        straighten(teacher, none, 1, 1e-3, seed=0)


def test_velocities_that_never_change_are_straight_and_those_that_grow_are_not():
    noise, labels = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    assert curvature(lambda x, t, y: torch.ones_like(x), noise, labels) == pytest.approx(0, abs=1e-10)
    # Velocities 0 and 1 in two steps, the whole way is 1/2: each is off by 1/2.
    growing = curvature(lambda x, t, y: 2 * t[:, None, None, None].expand_as(x), noise, labels, steps=2)
    assert growing == pytest.approx(0.25)


def test_a_straightened_flow_needs_one_step_where_its_teacher_needs_many(teacher):
    pairs = teacher_pairs(teacher, torch.zeros(600, dtype=torch.long), 12, 1.0, seeded())
    student = new_flow_image(TINY, 0)
    student.load_state_dict(teacher.state_dict())
    straighten(student, pairs, 150, 5e-3, seed=0)
    noise, labels = torch.randn(200, 1, 4, 4, generator=seeded(1)), torch.zeros(200, dtype=torch.long)
    assert curvature(student, noise, labels) < 0.5 * curvature(teacher, noise, labels)
    apart = {
        name: (generate(model, noise, labels, 1, 1.0) - generate(teacher, noise, labels, 12, 1.0)).square().mean()
        for name, model in (("teacher", teacher), ("student", student))
    }
    assert apart["student"] < 0.5 * apart["teacher"]


def test_the_same_seed_straightens_to_the_same_bits(teacher):
    pairs = teacher_pairs(teacher, torch.zeros(8, dtype=torch.long), 2, 1.0, seeded())
    found = []
    for _ in range(2):
        model = new_flow_image(TINY, 0)
        straighten(model, pairs, 3, 5e-3, seed=1, batch=4)
        found.append(weights_of(model))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
