from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.replay import Place, evictions


def test_nothing_is_forgotten_while_there_is_room():
    assert evictions([Place(1, 0, 10, 0.5), Place(2, 0, 10, 0.1)], max_bytes=20) == []


def test_the_most_frequent_condition_gives_way_lowest_rank_first():
    places = [Place(1, 0, 10, 0.9), Place(2, 0, 10, 0.2), Place(3, 0, 10, 0.4), Place(4, 1, 10, 0.1)]
    assert evictions(places, max_bytes=20) == [2, 3]


def test_between_equally_frequent_conditions_the_lowest_rank_goes():
    assert evictions([Place(1, 0, 10, 0.9), Place(2, 1, 10, 0.2)], max_bytes=10) == [2]


def test_an_empty_memory_has_nothing_to_forget():
    assert evictions([], max_bytes=0) == []


def test_a_bound_of_nothing_forgets_everything():
    assert sorted(evictions([Place(1, 0, 1, 0.1), Place(2, 1, 1, 0.2)], max_bytes=0)) == [1, 2]


def test_a_flooded_memory_keeps_a_uniform_sample_of_each_condition_and_stays_balanced():
    rng = np.random.default_rng(1)
    places: list[Place] = []
    for key in range(3000):  # condition 1 is seldom seen
        places.append(Place(key, int(rng.random() < 0.1), 1, float(rng.random())))
        gone = set(evictions(places, max_bytes=200))
        places = [place for place in places if place.key not in gone]
    counts = Counter(place.condition for place in places)
    assert counts[0] == counts[1] == 100
    frequent = [place.key for place in places if place.condition == 0]
    assert 1200 < np.mean(frequent) < 1800  # old and new alike, not the latest


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.floats(0, 1)), max_size=40),
    st.integers(0, 600),
)
def test_what_stays_fits_and_no_more_is_forgotten_than_has_to_be(raw, max_bytes):
    places = [Place(key, condition, size, rank) for key, (condition, size, rank) in enumerate(raw)]
    gone = evictions(places, max_bytes)
    used = sum(place.num_bytes for place in places if place.key not in gone)
    assert used <= max_bytes
    assert not gone or used + places[gone[-1]].num_bytes > max_bytes
