"""A memory of bounded size in which every condition has a fair place.

Each kept sample draws a random rank once. Evicting the lowest rank of the most frequent condition leaves a uniform
sample of that condition's stream (reservoir by random sort, Vitter 1985) and a balance between conditions
(class-balancing reservoir, Chrysakis and Moens 2020).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """One kept sample as the memory sees it. `rank` is uniform in 0..1, drawn when the sample was kept."""

    key: int
    condition: int
    num_bytes: int
    rank: float


def evictions(places: Iterable[Place], max_bytes: int) -> list[int]:
    """Keys to forget, in order, until the rest takes at most `max_bytes`."""
    left = sorted(places, key=lambda place: (place.rank, place.key), reverse=True)
    counts = Counter(place.condition for place in left)
    used = sum(place.num_bytes for place in left)
    forgotten = []
    while used > max_bytes and left:
        most = max(counts.values())
        at = max(index for index, place in enumerate(left) if counts[place.condition] == most)
        place = left.pop(at)
        counts[place.condition] -= 1
        used -= place.num_bytes
        forgotten.append(place.key)
    return forgotten
