import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.samples import split


@given(st.integers(0, 300), st.integers(0, 1000), st.floats(0, 1))
def test_a_split_parts_every_sample_exactly_once(num: int, seed: int, share: float):
    kept, held = split(num, seed, share)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(num))
    assert len(held) == round(num * share)


def test_a_split_depends_on_its_seed_alone():
    assert split(100, 1, 0.2)[1].tolist() == split(100, 1, 0.2)[1].tolist()
    assert split(100, 1, 0.2)[1].tolist() != split(100, 2, 0.2)[1].tolist()
    assert split(100, 1, 0.2)[1].tolist()[:10] == split(100, 1, 0.1)[1].tolist()


@pytest.mark.parametrize(("num", "share"), [(-1, 0.1), (5, -0.1), (5, 1.1), (5, float("nan"))])
def test_an_impossible_split_is_refused(num: int, share: float):
    with pytest.raises(ValueError, match="cannot hold out"):
        split(num, 0, share)
