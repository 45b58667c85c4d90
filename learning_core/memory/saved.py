"""A rehearsal memory as bytes: a digest, a JSON header, and the samples that lie nowhere else."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np

from learning_core.errors import Malformed
from learning_core.memory.latents import Precision, decode, encode, num_bytes
from learning_core.memory.replay import Place
from learning_core.params import Array

DIGEST = 32
LENGTH = 4
DAMAGED = "the saved rehearsal memory is damaged; restore a backup of it, or delete it to start empty"


@dataclass(frozen=True, slots=True)
class Form:
    """What every sample of one memory looks like. side: (name, shape) by name, kept as float32."""

    shape: tuple[int, ...]
    side: tuple[tuple[str, tuple[int, ...]], ...]
    precision: Precision

    @classmethod
    def of(cls, features: Array, side: Mapping[str, Array], precision: Precision) -> Self:
        return cls(features.shape, tuple((name, side[name].shape) for name in sorted(side)), precision)

    def encode(self, features: Array, side: Mapping[str, Array]) -> bytes:
        return encode(features, self.precision) + b"".join(
            encode(side[name], Precision.FLOAT32) for name, _ in self.side
        )

    def decode(self, samples: Sequence[bytes]) -> tuple[Array, dict[str, Array]]:
        """Samples -> features [n, ...] and side values [n, ...] by name, float32. Raises Malformed."""
        at = num_bytes(self.shape, self.precision)
        features = [decode(data[:at], self.shape, self.precision) for data in samples]
        side = {}
        for name, shape in self.side:
            end = at + num_bytes(shape, Precision.FLOAT32)
            side[name] = _stacked([decode(data[at:end], shape, Precision.FLOAT32) for data in samples], shape)
            at = end
        return _stacked(features, self.shape), side


@dataclass(frozen=True, slots=True)
class Saved:
    """The whole state. `places` in the order draws go by; `hot` least recently rehearsed first, None: see the cold."""

    form: Form | None = None
    next_key: int = 0
    places: tuple[Place, ...] = ()
    hot: tuple[tuple[int, bytes | None], ...] = ()
    cold: frozenset[int] = frozenset()

    def without(self, keys: frozenset[int]) -> "Saved":
        places = tuple(place for place in self.places if place.key not in keys)
        hot = tuple((key, data) for key, data in self.hot if key not in keys)
        return replace(self, places=places, hot=hot, cold=self.cold - keys)


def written(saved: Saved) -> bytes:
    header = {
        "form": asdict(saved.form) if saved.form else None,
        "next_key": saved.next_key,
        "places": [(place.key, place.condition, place.num_bytes, place.rank) for place in saved.places],
        "hot": [(key, None if data is None else len(data)) for key, data in saved.hot],
        "cold": sorted(saved.cold),
    }
    text = json.dumps(header).encode()
    body = b"".join([len(text).to_bytes(LENGTH, "little"), text, *(data for _, data in saved.hot if data is not None)])
    return hashlib.sha256(body).digest() + body


def read(data: bytes) -> Saved:
    """Inverse of `written`. Raises Malformed."""
    body = data[DIGEST:]
    if hashlib.sha256(body).digest() != data[:DIGEST]:
        raise Malformed(DAMAGED)
    try:  # a whole file may still be another program's, or another version's
        return _parsed(body)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Malformed(DAMAGED) from error


def _parsed(body: bytes) -> Saved:
    end = LENGTH + int.from_bytes(body[:LENGTH], "little")
    header = json.loads(body[LENGTH:end])
    hot: list[tuple[int, bytes | None]] = []
    for key, length in header["hot"]:
        hot.append((int(key), None if length is None else body[end : end + length]))
        end += length or 0
    places = tuple(Place(int(key), int(of), int(size), float(rank)) for key, of, size, rank in header["places"])
    saved = Saved(
        _form(header["form"]), int(header["next_key"]), places, tuple(hot), frozenset(map(int, header["cold"]))
    )
    known = {place.key for place in places}
    if end != len(body) or len(known) < len(places) or not {*saved.cold, *(key for key, _ in hot)} <= known:
        raise ValueError("what is kept and where it lies do not go together")
    return saved


def _form(raw: dict[str, object] | None) -> Form | None:
    match raw:
        case {"shape": list(shape), "side": list(side), "precision": str(precision)}:
            named = tuple((name, tuple(lengths)) for name, lengths in side)
            return Form(tuple(shape), named, Precision(precision))
    return None


def _stacked(arrays: Sequence[Array], shape: tuple[int, ...]) -> Array:
    return np.stack(arrays) if arrays else np.zeros((0, *shape), np.float32)
