"""Which of the samples offered so far are kept: `replay.evictions`, one sample at a time and without sorting.

Balanced, the lowest rank of the most frequent condition gives way (class-balancing reservoir, Chrysakis and Moens
2020); plain, the lowest rank of all, which leaves a uniform sample of the stream (Vitter 1985).
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from learning_core.memory.replay import Place


class Reservoir:
    """Places and their order of leaving; saved as its places. Adding and removing take O(log n + conditions)."""

    def __init__(self, balanced: bool) -> None:
        self._balanced = balanced
        self._places: dict[int, Place] = {}
        self._counts: dict[int, int] = {}
        self._ranks: dict[int, list[tuple[float, int]]] = {}  # a heap of each group, with removed keys still in it

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: int) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    def __getitem__(self, key: int) -> Place:
        return self._places[key]

    def add(self, place: Place) -> None:
        group = self._group(place)
        self._places[place.key] = place
        self._counts[group] = self._counts.get(group, 0) + 1
        heappush(self._ranks.setdefault(group, []), (place.rank, place.key))

    def resize(self, key: int, num_bytes: int) -> None:
        old = self._places[key]
        self._places[key] = Place(key, old.condition, num_bytes, old.rank)

    def remove(self, key: int) -> Place:
        place = self._places.pop(key)
        group = self._group(place)
        self._counts[group] -= 1
        ranks = self._ranks[group]
        if not self._counts[group]:
            del self._counts[group], self._ranks[group]
        elif len(ranks) > 2 * self._counts[group] + 16:  # amortised: as many removals as are now swept away
            ranks[:] = [(rank, known) for rank, known in ranks if known in self._places]
            heapify(ranks)
        return place

    def next_to_go(self) -> int:
        """The key that gives way when room is needed. Raises ValueError when there is none."""
        most = max(self._counts.values())
        return min(self._lowest(group) for group, count in self._counts.items() if count == most)[1]

    def _lowest(self, group: int) -> tuple[float, int]:
        ranks = self._ranks[group]
        while ranks[0][1] not in self._places:
            heappop(ranks)
        return ranks[0]

    def _group(self, place: Place) -> int:
        return place.condition if self._balanced else 0
