import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning_core.methods.condensed_replay import condense, draw


def test_two_points_are_a_mean_and_one_direction():
    memory = condense(torch.tensor([[3.0, 1.0], [-1.0, 1.0]]), 2)
    torch.testing.assert_close(memory.mean, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(memory.directions.abs(), torch.tensor([[2.0, 0.0]]))  # the standard deviation, +-2
    assert memory.rest == 0
    assert memory.num_bytes == 4 * 5


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 100))
def test_the_total_variance_is_kept_whatever_the_number_of_vectors(vectors, rows, seed):
    samples = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)) * torch.arange(1.0, 7.0)
    memory = condense(samples, vectors)
    kept = memory.directions.square().sum() + 6 * memory.rest**2
    torch.testing.assert_close(kept, samples.var(dim=0, correction=0).sum(), rtol=1e-3, atol=1e-3)


def test_main_directions_have_their_own_variance_and_no_more():
    samples = torch.tensor([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    memory = condense(samples, 2)  # variances 4.5, 0.5, 0: the rest is their mean, 0.25
    assert memory.rest == pytest.approx(0.5)
    torch.testing.assert_close(memory.directions.abs(), torch.tensor([[(4.5 - 0.25) ** 0.5, 0.0, 0.0]]))


def test_drawn_samples_have_the_mean_and_spread_of_their_class():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(400, 3, generator=generator) * torch.tensor([5.0, 1.0, 1.0]) + 10
    narrow = torch.randn(400, 3, generator=generator) * 0.1
    samples, of = draw([condense(wide, 2), condense(narrow, 2)], 4000, generator)
    torch.testing.assert_close(samples[of == 0].mean(dim=0), wide.mean(dim=0), atol=0.5, rtol=0)
    torch.testing.assert_close(samples[of == 0].std(dim=0), wide.std(dim=0), atol=0.3, rtol=0)
    assert samples[of == 1].abs().max() < 1


def test_a_single_sample_is_remembered_exactly():
    samples, of = draw([condense(torch.tensor([[1.0, 2.0]]), 4)], 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples, torch.tensor([[1.0, 2.0]] * 3))
    assert of.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("rows", "vectors"), [(0, 2), (2, 0)])
def test_nothing_cannot_be_condensed(rows, vectors):
    with pytest.raises(ValueError, match="cannot condense"):
        condense(torch.zeros(rows, 2), vectors)
