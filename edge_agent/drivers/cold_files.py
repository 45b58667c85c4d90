"""The cold part of the rehearsal memory: one zstd file a sample, whole or not there, gone without a trace.

A deleted file's blocks are free, not overwritten: against somebody who reads the bare flash, encrypt the disk.
"""

from collections.abc import Collection
from pathlib import Path

import zstandard

from learning_core.errors import StateError
from protos.state_folder import settle, write_atomically

BLOCK = 4096  # what a disk hands out; a sample that takes less is better kept in memory
SUFFIX = ".zst"


class ColdFiles:
    """Owns a folder; saved as the files in it."""

    def __init__(self, folder: Path, level: int = 3) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StateError(f"{folder} cannot be made; make its parent writable for this user") from error
        self._folder = folder
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()
        self._unlink(list(folder.glob(".*.draft")))  # a crash in the middle of a write leaves what it had written

    def put(self, key: int, data: bytes) -> int:
        """Raises StateError when the disk is full or read-only."""
        packed = self._compressor.compress(data)
        write_atomically(self._path(key), packed, mode=0o600)
        return -(-len(packed) // BLOCK) * BLOCK

    def get(self, key: int) -> bytes | None:
        try:
            return self._decompressor.decompress(self._path(key).read_bytes())
        except (FileNotFoundError, zstandard.ZstdError):
            return None

    def delete(self, keys: Collection[int]) -> None:
        self._unlink([self._path(key) for key in keys])

    def keys(self) -> list[int]:
        return sorted(int(path.stem, 16) for path in self._folder.glob("[0-9a-f]" * 16 + SUFFIX))

    def _path(self, key: int) -> Path:
        return self._folder / f"{key:016x}{SUFFIX}"

    def _unlink(self, paths: Collection[Path]) -> None:
        """Returns once the names are gone from the disk itself."""
        if not paths:
            return
        try:
            for path in paths:
                path.unlink(missing_ok=True)
            settle(self._folder)
        except OSError as error:
            raise StateError(f"{self._folder} cannot be written; make it writable for this user") from error
