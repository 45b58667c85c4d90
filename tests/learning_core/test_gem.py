import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.methods.gem import project, project_all

seeds, tasks = st.integers(0, 2**31), st.integers(1, 8)


def drawn(seed, count, size=12):
    generator = Generator().manual_seed(seed)
    return torch.randn(size, generator=generator), torch.randn(count, size, generator=generator)


def test_a_conflicting_gradient_stops_hurting_memory():
    gradient, memory = torch.tensor([1.0, -2.0]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(project(gradient, memory), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(project_all(gradient, memory), torch.tensor([1.0, 0.0]))


def test_the_mean_of_two_memories_hides_what_only_one_of_them_minds():
    gradient, memory = torch.tensor([1.0, -1.0]), torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert torch.equal(project(gradient, memory), gradient)
    torch.testing.assert_close(project_all(gradient, memory), torch.tensor([1.0, 0.0]))


def test_a_margin_pushes_on_into_the_memory_that_was_contradicted():
    gradient, memory = torch.tensor([1.0, -2.0]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(project_all(gradient, memory, margin=2.5), torch.tensor([1.0, 0.5]))


@given(seeds, tasks)
def test_a_gem_never_hurts_the_mean_of_the_memories(seed, count):
    gradient, memory = drawn(seed, count)
    assert project(gradient, memory) @ memory.mean(dim=0) >= -1e-5


@given(seeds, tasks, st.floats(0.0, 2.0))
def test_gem_hurts_no_memory(seed, count, margin):
    gradient, memory = drawn(seed, count)
    assert (memory @ project_all(gradient, memory, margin) >= -1e-4).all()


@given(seeds, tasks)
def test_gem_goes_no_farther_than_any_other_harmless_gradient(seed, count):
    gradient, memory = drawn(seed, count)
    moved = (project_all(gradient, memory) - gradient).norm()
    assert moved <= (gradient - 0).norm() + 1e-4  # zero hurts nobody
    if count == 1:
        torch.testing.assert_close(project_all(gradient, memory), project(gradient, memory), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("correct", [project, project_all])
@given(seed=seeds, count=tasks)
def test_a_harmless_gradient_is_left_alone(correct, seed, count):
    gradient, memory = drawn(seed, count)
    memory = memory * (memory @ gradient).sign()[:, None]
    assert torch.equal(correct(gradient, memory), gradient)


@pytest.mark.parametrize("correct", [project, project_all])
@pytest.mark.parametrize("memory", [torch.zeros(0, 3), torch.zeros(2, 3)])
def test_no_memory_and_a_memory_without_a_slope_change_nothing(correct, memory):
    gradient = torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(correct(gradient, memory), gradient)


def test_two_tasks_of_the_same_mind_are_as_good_as_one():
    gradient, memory = torch.tensor([1.0, -2.0]), torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(project_all(gradient, memory), torch.tensor([1.0, 0.0]))


def test_more_memories_than_directions_can_leave_no_way_at_all():
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(project_all(torch.tensor([1.0, -2.0]), memory), torch.zeros(2), atol=1e-6, rtol=0)
