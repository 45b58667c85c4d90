import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.replay import Place, evictions
from learning_core.memory.reservoir import Reservoir

RANKS = st.floats(0, 1)


def fill(places, balanced=True):
    reservoir = Reservoir(balanced)
    for place in places:
        reservoir.add(place)
    return reservoir


def leaving(reservoir, num):
    gone = []
    for _ in range(num):
        gone.append(reservoir.next_to_go())
        reservoir.remove(gone[-1])
    return gone


def test_balanced_the_most_frequent_condition_gives_way_and_plain_the_lowest_rank():
    places = [Place(1, 0, 1, 0.9), Place(2, 0, 1, 0.2), Place(3, 0, 1, 0.4), Place(4, 1, 1, 0.1)]
    assert leaving(fill(places, balanced=True), 2) == [2, 3]
    assert leaving(fill(places, balanced=False), 2) == [4, 2]


def test_an_empty_reservoir_has_nobody_to_send_away():
    with pytest.raises(ValueError, match="empty"):
        Reservoir(balanced=True).next_to_go()


@given(st.lists(st.tuples(st.integers(0, 3), RANKS), max_size=30), st.integers(0, 30), st.data())
def test_it_sends_away_whom_the_plain_function_sends_away(raw, num, data):
    places = [Place(key, condition, 1, rank) for key, (condition, rank) in enumerate(raw)]
    reservoir = fill(places)
    removed = data.draw(st.sets(st.sampled_from(range(len(raw))))) if raw else set()
    for key in removed:
        reservoir.remove(key)
    left = [place for place in places if place.key not in removed]
    num = min(num, len(left))
    assert leaving(reservoir, num) == evictions(left, len(left) - num)


def test_many_removals_leave_no_pile_of_old_ranks():
    reservoir = fill(Place(key, 0, 1, key / 5000) for key in range(5000))
    for key in range(4990, 0, -1):
        reservoir.remove(key)
    assert len(reservoir) == 10
    assert len(reservoir._ranks[0]) <= 2 * 10 + 17


def test_a_plain_reservoir_is_a_uniform_sample_of_its_stream():
    rng, kept = np.random.default_rng(3), []
    for _ in range(40):
        reservoir = Reservoir(balanced=False)
        for key in range(500):
            reservoir.add(Place(key, key % 2, 1, float(rng.random())))
            if len(reservoir) > 25:
                reservoir.remove(reservoir.next_to_go())
        kept += [place.key for place in reservoir]
    counts, _ = np.histogram(kept, bins=5, range=(0, 500))
    assert counts.sum() == 1000
    assert np.abs(counts - 200).max() < 60  # five standard deviations
