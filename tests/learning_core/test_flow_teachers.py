import numpy as np
import pytest
import torch

from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of, flow_points, new_flow_image
from learning_core.models.lora import build_student, frozen_base, merge, read_adapter, start_factors
from learning_core.models.weights import weights_of
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import Teacher, equally_often, fit_flow, one_voice

TINY = FlowImageConfig(side=4, patch=2, width=8, depth=1, heads=2, num_conditions=4)
NULL = TINY.null_condition
BASE = (0, 1)


def student() -> FlowImage:
    base = new_flow_image(TINY, 0)
    torch.nn.init.normal_(base.out.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return build_student(TINY, weights_of(base), start_factors(TINY, 2, seed=0), 4.0, BASE)


def news(condition: int, rows: int = 12) -> Batch:
    images = np.random.default_rng(condition).normal(size=(rows, 1, 4, 4)).astype(np.float32)
    return Batch(images, np.full(rows, condition, np.int64))


def learn(model: FlowImage, samples: Batch, known: tuple[int, ...], earlier=(), steps: int = 50) -> None:
    recipe = Recipe(steps=steps, batch=32, seed=3)
    fit_flow(model, samples, known, recipe, start_state(read_adapter(model)), steps, earlier)


def gap(one: FlowImage, other: FlowImage, condition: int) -> float:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 1, 4, 4)).astype(np.float32))
    t, y = torch.linspace(0.05, 0.95, 64), torch.full((64,), condition)
    with torch.no_grad():
        return (one(x, t, y) - other(x, t, y)).square().mean().item()


def constant(value: float):
    return lambda x, t, y: torch.full_like(x, value)


def test_each_condition_is_asked_of_the_teacher_who_has_it():
    velocity = one_voice([Teacher(constant(1.0), (0, 4)), Teacher(constant(2.0), (3,))])
    answer = velocity(torch.zeros(4, 1, 1, 1), torch.zeros(4), torch.tensor([3, 0, 4, 3]))
    assert answer.flatten().tolist() == [2.0, 1.0, 1.0, 2.0]


def test_a_batch_that_asks_nothing_of_one_teacher_is_answered():
    base = frozen_base(student())
    velocity = one_voice([Teacher(base, (0, 1)), Teacher(base, (2,))])
    x, t, y = torch.ones(2, 1, 4, 4), torch.tensor([0.1, 0.2]), torch.tensor([2, 2])
    with torch.no_grad():
        torch.testing.assert_close(velocity(x, t, y), base(x, t, y))


def test_two_teachers_for_one_condition_are_refused():
    with pytest.raises(ValueError, match="more than one teacher"):
        one_voice([Teacher(constant(1.0), (0, 1)), Teacher(constant(2.0), (1,))])


def test_teachers_are_asked_equally_often_whatever_the_number_of_their_conditions():
    silent = constant(0.0)
    assert equally_often([Teacher(silent, (0, 1, 2)), Teacher(silent, (5, 6))]) == [0, 1, 2, 0, 1, 2, 5, 6, 5, 6, 5, 6]
    assert equally_often([Teacher(silent, (1, 7))]) == [1, 7]
    assert equally_often([]) == []


def test_what_an_adapter_learned_is_kept_only_if_the_model_of_that_day_is_asked():
    first = student()
    learn(first, news(2), (*BASE, NULL))
    yesterday = flow_image_of(TINY, merge(first))
    lost = {}
    for earlier in ((Teacher(yesterday, (2,)),), ()):
        model = student()
        learn(model, news(2), (*BASE, NULL))
        learn(model, news(3), (*BASE, NULL), earlier)
        lost[len(earlier)] = gap(model, yesterday, 2)
    assert lost[1] < 0.6 * lost[0]


def test_no_label_is_kept_where_it_is_known_and_learned_where_it_is_not():
    drift = {}
    for known in ((*BASE, NULL), BASE):
        model = student()
        learn(model, news(2), known)
        drift[len(known)] = gap(model, frozen_base(model), NULL)
    assert drift[3] < 0.5 * drift[2]


def test_without_label_dropout_every_label_is_shown():
    y = torch.arange(400) % 4
    points = flow_points(torch.zeros(400, 1, 2, 2), y, NULL, torch.Generator().manual_seed(0), label_dropout=0.0)
    assert torch.equal(points.y, y)
