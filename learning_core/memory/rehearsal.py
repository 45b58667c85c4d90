"""A bounded memory of samples or latents to rehearse: the recently used in memory, the others compressed on disk.

Experience replay (Chaudhry et al. 2019, arXiv:1902.10486) and latent replay (Pellegrini et al. 2020,
arXiv:1912.01100); side values, such as the logits DER++ stores (Buzzega et al. 2020, arXiv:2004.07211), go with them.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from learning_core.errors import ConfigError
from learning_core.memory.cold import Cold
from learning_core.memory.latents import Precision
from learning_core.memory.replay import Place
from learning_core.memory.reservoir import Reservoir
from learning_core.memory.saved import Form, Saved, read, written
from learning_core.params import Array
from learning_core.samples import Batch


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be kept, and how. `hot_bytes` of `max_bytes` are in memory.

    A sample counts what it takes encoded while it lies in memory only, and what it takes in the cold once it is there.
    """

    max_bytes: int
    hot_bytes: int
    precision: Precision = Precision.FLOAT16
    balanced: bool = True  # every condition a fair place; else a uniform sample of the stream


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What was drawn. keys: [n] int64; side: name -> [n, ...] float32."""

    batch: Batch
    side: Mapping[str, Array]
    keys: NDArray[np.int64]


class Rehearsal:
    """Owns what is rehearsed; saved by `save` and what lies in the cold, put back by `restore`, exactly.

    Samples never change, so one that has been in the cold once is never written again. Between two saves the cold may
    hold, beyond `max_bytes`, what gave way since: it goes when the next save is stored, so that a crash in between
    finds everything the last save speaks of. A stream that is replayed from its last save meets the same memory.
    """

    def __init__(self, room: Room, cold: Cold) -> None:
        cold.delete(list(cold.keys()))  # whatever lies there belongs to no memory
        self._start(room, cold, Saved())

    @classmethod
    def restore(cls, data: bytes, room: Room, cold: Cold) -> Self:
        """The memory that `save` handed over, and a cold that holds what it speaks of and nothing else.

        Cold files the saved memory does not know, left by a crash after it, are deleted: what was in them is in `data`
        or will be offered again. Samples whose cold file is gone stay forgotten. Raises Malformed, or
        ConfigError where `room` wants another precision; nothing is changed then.
        """
        saved = read(data)
        if saved.form is not None and saved.form.precision != room.precision:
            raise ConfigError(
                f"what is rehearsed is kept as {saved.form.precision}, not {room.precision};"
                " set the precision back, or delete the saved memory to start an empty one"
            )
        known = set(cold.keys())
        cold.delete(sorted(known - saved.cold))
        memory = cls.__new__(cls)
        memory._start(room, cold, saved.without(saved.cold - known))
        return memory

    def _start(self, room: Room, cold: Cold, saved: Saved) -> None:
        self._room, self._cold = room, cold
        self._form, self._next = saved.form, saved.next_key
        self._reservoir = Reservoir(room.balanced)
        for place in saved.places:
            self._reservoir.add(place)
        self._keys = [place.key for place in saved.places]
        self._at = {key: at for at, key in enumerate(self._keys)}
        self._hot: OrderedDict[int, bytes] = OrderedDict()  # least recently rehearsed first
        self._in_cold = set(saved.cold)
        self._gone: list[int] = []  # gave way since the last save, still in the cold
        self._used = sum(place.num_bytes for place in saved.places)
        self._hot_used = 0
        for key, kept in saved.hot:
            data = cold.get(key) if kept is None else kept
            if data is None:
                self._drop(key)
            else:
                self._warm(key, data)
        self._fit()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def hot_bytes(self) -> int:
        return self._hot_used

    def conditions(self) -> dict[int, int]:
        """How many samples of each condition are kept."""
        return dict(Counter(place.condition for place in self._reservoir))

    def offer(
        self, features: Array, condition: int, rng: np.random.Generator, side: Mapping[str, Array] | None = None
    ) -> int | None:
        """Keep a sample or latent [...] for now: its key, or None where others keep their place before it.

        All have the shape and the side values of the first; another is a bug and raises ValueError.
        """
        form = Form.of(features, side or {}, self._room.precision)
        if self._form not in {None, form}:
            raise ValueError(f"this memory keeps {self._form}, not {form}")
        data = form.encode(features, side or {})
        key, self._form = self._next, form
        self._next += 1
        self._reservoir.add(Place(key, condition, len(data), float(rng.random())))
        self._at[key] = len(self._keys)
        self._keys.append(key)
        self._used += len(data)
        self._warm(key, data)
        self._fit()
        return key if key in self._reservoir else None

    def draw(self, n: int, rng: np.random.Generator) -> Rehearsed:
        """`n` different samples, each as likely as any other, or all where there are fewer. They become the hot ones.

        A sample whose cold file was lost is forgotten here, and the draw is that much smaller.
        """
        drawn = [self._keys[at] for at in rng.choice(len(self._keys), min(n, len(self._keys)), replace=False)]
        found = {key: data for key in drawn if (data := self._read(key)) is not None}
        for key in drawn:
            if key not in found:
                self._drop(key)
        conditions = np.array([self._reservoir[key].condition for key in found], np.int64)
        for key, data in found.items():
            self._warm(key, data)
        self._fit()
        form = self._form or Form((0,), (), self._room.precision)
        features, side = form.decode(list(found.values()))
        return Rehearsed(Batch(features, conditions), side, np.array(list(found), np.int64))

    def forget(self, keys: Sequence[int]) -> int:
        """Delete samples from memory and the cold, now; how many there were. Complete once the next save is stored."""
        known = [key for key in dict.fromkeys(keys) if key in self._reservoir]
        for key in known:
            self._remove(key)
        self._cold.delete([*known, *self._gone])  # what gave way may be what somebody asks to be forgotten
        self._gone.clear()
        return len(known)

    def forget_condition(self, condition: int) -> int:
        return self.forget([place.key for place in self._reservoir if place.condition == condition])

    def save(self, store: Callable[[bytes], None]) -> None:
        """Hand the state to `store`, which keeps it durably, whole, instead of the last one; then tidy the cold."""
        hot = tuple((key, None if key in self._in_cold else data) for key, data in self._hot.items())
        places = tuple(self._reservoir[key] for key in self._keys)
        store(written(Saved(self._form, self._next, places, hot, frozenset(self._in_cold))))
        self._cold.delete(self._gone)
        self._gone.clear()

    def _fit(self) -> None:
        """Let samples give way, and others go cold, until both bounds hold."""
        while True:
            while self._used > self._room.max_bytes:
                self._drop(self._reservoir.next_to_go())
            if self._hot_used <= self._room.hot_bytes:
                return
            key, data = next(iter(self._hot.items()))
            if key not in self._in_cold:
                taken = self._cold.put(key, data)
                self._in_cold.add(key)
                self._used += taken - self._reservoir[key].num_bytes
                self._reservoir.resize(key, taken)
            self._hot_used -= len(self._hot.pop(key))

    def _read(self, key: int) -> bytes | None:
        return self._hot[key] if key in self._hot else self._cold.get(key)

    def _warm(self, key: int, data: bytes) -> None:
        self._hot_used += 0 if key in self._hot else len(data)
        self._hot[key] = data
        self._hot.move_to_end(key)

    def _drop(self, key: int) -> None:
        """Remove it, and what lies of it in the cold, readable or not, with the next save."""
        if key in self._in_cold:
            self._gone.append(key)
        self._remove(key)

    def _remove(self, key: int) -> None:
        """The last of the drawable keys takes the place of the one removed."""
        self._used -= self._reservoir.remove(key).num_bytes
        at, last = self._at.pop(key), self._keys.pop()
        if last != key:
            self._keys[at], self._at[last] = last, at
        self._hot_used -= len(self._hot.pop(key, b""))
        self._in_cold.discard(key)
