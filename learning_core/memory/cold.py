"""Where the part of a memory lies that is not in use: behind a seam, since a disk is no business of the arithmetic."""

from collections.abc import Collection, Iterable
from typing import Protocol


class Cold(Protocol):
    """Bytes by key, compressed or not, outliving the process."""

    def put(self, key: int, data: bytes) -> int:
        """Keep it durably, whole or not at all, instead of what lay there; the bytes it now takes."""
        ...

    def get(self, key: int) -> bytes | None:
        """What was put; None where it is gone or damaged."""
        ...

    def delete(self, keys: Collection[int]) -> None:
        """Leave no trace of them; unknown keys are no error."""
        ...

    def keys(self) -> Iterable[int]: ...


class InMemory:
    """For simulations, and where nothing may be written: what lies in the cold, as a dict; not saved."""

    def __init__(self) -> None:
        self._kept: dict[int, bytes] = {}

    def put(self, key: int, data: bytes) -> int:
        self._kept[key] = data
        return len(data)

    def get(self, key: int) -> bytes | None:
        return self._kept.get(key)

    def delete(self, keys: Collection[int]) -> None:
        for key in keys:
            self._kept.pop(key, None)

    def keys(self) -> list[int]:
        return sorted(self._kept)
