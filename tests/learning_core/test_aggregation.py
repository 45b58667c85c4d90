import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.federation.aggregation import consolidate
from learning_core.updates import Aggregate, ModelVersion

SHARED = {"w": np.array([1.0, 1.0], np.float32)}


def aggregate(fog: str, round: int, change, cohort: float) -> Aggregate:  # noqa: A002
    return Aggregate({"w": np.asarray(change, np.float32)}, cohort, ModelVersion(1), fog, round)


def test_fogs_weigh_by_the_devices_they_expected():
    three, one = aggregate("fog-a", 1, [1, 0], 3.0), aggregate("fog-b", 7, [0, 4], 1.0)

    np.testing.assert_allclose(consolidate(SHARED, [three, one])["w"], [1.75, 2.0])


def test_rounds_of_one_fog_add_up_instead_of_being_averaged():
    rounds = [
        aggregate("fog-a", 1, [1, 0], 2.0),
        aggregate("fog-a", 2, [1, 0], 2.0),
        aggregate("fog-b", 1, [0, 1], 2.0),
    ]

    np.testing.assert_allclose(consolidate(SHARED, rounds)["w"], [2.0, 1.5])


def test_one_fog_alone_counts_whole():
    np.testing.assert_allclose(consolidate(SHARED, [aggregate("fog-a", 1, [0.5, -1], 7.3)])["w"], [1.5, 0.0])


def test_no_aggregate_changes_nothing():
    np.testing.assert_array_equal(consolidate(SHARED, [])["w"], SHARED["w"])


changes = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2)
deliveries = st.lists(
    st.builds(aggregate, st.sampled_from(["fog-a", "fog-b", "fog-c"]), st.integers(1, 9), changes, st.floats(0.1, 1e4)),
    max_size=8,
    unique_by=lambda each: (each.fog, each.round),
)


@given(deliveries, st.randoms())
def test_the_order_of_arrival_changes_no_bit(arrived, random):
    shuffled = list(arrived)
    random.shuffle(shuffled)

    np.testing.assert_array_equal(consolidate(SHARED, arrived)["w"], consolidate(SHARED, shuffled)["w"])


def test_the_same_round_twice_is_an_error():
    once = aggregate("fog-a", 1, [1, 0], 2.0)

    with pytest.raises(ValueError, match="only once"):
        consolidate(SHARED, [once, once])


def test_an_aggregate_of_another_adapter_is_an_error():
    other = Aggregate({"v": np.zeros(2, np.float32)}, 1.0, ModelVersion(1), "fog-a", 1)

    with pytest.raises(ValueError, match="fog-a"):
        consolidate(SHARED, [other])
