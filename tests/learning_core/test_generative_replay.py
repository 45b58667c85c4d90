import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.errors import ConfigError
from learning_core.methods.generative_replay import dream


def label_as_image(conditions, generator):
    return conditions[:, None].float() + torch.rand(len(conditions), 1, generator=generator) / 10


def test_three_dreams_of_the_only_known_class():
    samples, conditions = dream(label_as_image, [4], 3, Generator().manual_seed(0))
    assert conditions.tolist() == [4, 4, 4]
    assert samples.floor().flatten().tolist() == [4.0, 4.0, 4.0]


@given(st.sets(st.integers(0, 99), min_size=1, max_size=5), st.integers(0, 2**31))
def test_each_sample_goes_with_its_condition_and_every_known_one_is_dreamt_of(known, seed):
    samples, conditions = dream(label_as_image, sorted(known), 120, Generator().manual_seed(seed))
    assert set(conditions.tolist()) == known
    assert torch.equal(samples.floor().flatten().long(), conditions)


def test_equal_seeds_dream_alike_and_no_graph_is_built():
    weight = torch.ones(1, requires_grad=True)
    first, second = (
        dream(lambda *asked: weight * label_as_image(*asked), [1, 2], 8, Generator().manual_seed(5))[0] for _ in "ab"
    )
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_no_dream_is_no_sample_and_knowing_nothing_is_an_error():
    samples, conditions = dream(label_as_image, [1], 0, Generator())
    assert len(samples) == len(conditions) == 0
    with pytest.raises(ConfigError, match="at least one condition"):
        dream(label_as_image, [], 1, Generator())
