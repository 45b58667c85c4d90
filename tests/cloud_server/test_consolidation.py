import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.consolidation import Buffered, consolidate_at_s, release_is_due, screen
from learning_core.updates import ModelVersion

NOW = ModelVersion(2, 7)


@pytest.mark.parametrize(
    ("base", "distilling", "why"),
    [
        (ModelVersion(2, 7), False, None),
        (ModelVersion(2, 4), False, None),
        (ModelVersion(2, 3), False, "stale"),
        (ModelVersion(2, 8), False, "never given out"),
        (ModelVersion(3, 0), False, "never given out"),
        (ModelVersion(1, 7), False, "superseded"),
        (ModelVersion(2, 7), True, "being distilled"),
    ],
)
def test_an_aggregate_is_refused_with_its_reason(base: ModelVersion, distilling: bool, why: str | None):
    reason = screen(base, NOW, max_staleness=3, distilling=distilling)
    assert (reason is None) == (why is None)
    assert why is None or (reason is not None and why in reason)


@given(st.tuples(st.integers(1, 5), st.integers(0, 9)), st.tuples(st.integers(1, 5), st.integers(0, 9)))
def test_what_is_counted_always_changes_the_release_that_is_current(base: tuple[int, int], shared: tuple[int, int]):
    if screen(ModelVersion(*base), ModelVersion(*shared), 3, False) is None:
        assert base[0] == shared[0]
        assert 0 <= shared[1] - base[1] <= 3


def test_consolidation_is_due_at_once_when_every_fog_delivered():
    both = [Buffered("a", 1, 100.0), Buffered("b", 4, 103.0)]
    assert consolidate_at_s(both, ["a", "b"], patience_s=30) == 100.0
    assert consolidate_at_s(both, ["a", "b", "c"], patience_s=30) == 130.0


def test_several_rounds_of_one_fog_do_not_stand_for_another():
    assert consolidate_at_s([Buffered("a", 1, 5.0), Buffered("a", 2, 6.0)], ["a", "b"], 10) == 15.0


def test_nothing_is_consolidated_when_nothing_came():
    assert consolidate_at_s([], ["a"], 10) is None
    assert consolidate_at_s([], [], 10) is None


def test_a_release_is_due_after_its_steps_and_again_after_as_many():
    assert [release_is_due(step, 0, 4) for step in (3, 4, 5)] == [False, True, True]
    assert [release_is_due(step, 4, 4) for step in (5, 7, 8)] == [False, False, True]
