"""What must outlive a damaged database, twice: answered rounds, the privacy odometer, bans, and a few facts.

The second copy is one append-only file, a line a change, each with its own checksum. A line is written after the
transaction it tells of and before anything of it leaves the device, so that what was sent is always in both.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.state_folder import refusal, settle, write_atomically


@dataclass(frozen=True, slots=True)
class Vital:
    """What both copies know. `seq` counts changes; spendings: (noise_multiplier, sample_rate) -> rounds."""

    seq: int = 0
    answers: frozenset[tuple[str, int]] = frozenset()
    spendings: Mapping[tuple[float, float], int] = field(default_factory=dict)
    bans: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, seq: int, change: list[Any]) -> "Vital":
        """After one more change. Raises ValueError, TypeError, OverflowError or KeyError for what is none."""
        answers, spendings, bans, facts = self.answers, dict(self.spendings), dict(self.bans), dict(self.facts)
        match change:
            case ["answer", str(fog), int(round_)]:
                answers |= {(fog, round_)}
            case ["spending", float(noise), float(rate), int(rounds)] if rounds >= 0:
                spendings[noise, rate] = max(rounds, spendings.get((noise, rate), 0))
            case ["ban", str(digest), str(reason), float() | None as until_s]:
                bans[digest] = (reason, until_s)
            case ["fact", str(name), None]:
                facts.pop(name, None)
            case ["fact", str(name), value]:
                facts[name] = value
            case ["format", 1]:
                pass
            case _:
                raise ValueError(f"{str(change)[:80]} is no change")
        return Vital(max(self.seq, seq), answers, spendings, bans, facts)

    def changes(self) -> list[list[Any]]:
        """The changes that make this from nothing."""
        return [
            *(["answer", *key] for key in sorted(self.answers)),
            *(["spending", *key, rounds] for key, rounds in sorted(self.spendings.items())),
            *(["ban", digest, *why] for digest, why in sorted(self.bans.items())),
            *(["fact", name, value] for name, value in sorted(self.facts.items())),
        ]


def merged(database: Vital, copy: Vital) -> Vital:
    """What is true if either may have lost its latest changes: nothing sent is forgotten, the later facts count."""
    later = copy if copy.seq > database.seq else database
    spendings = dict(database.spendings)
    for key, rounds in copy.spendings.items():
        spendings[key] = max(rounds, spendings.get(key, 0))
    return Vital(later.seq, database.answers | copy.answers, spendings, later.bans, later.facts)


class SecondCopy:
    """Owns one file; saved at every `append`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0  # of whole lines; what a full disk left of another one is cut off first

    def read(self) -> tuple[Vital, int, bool]:
        """What it tells, in how many lines, and whether that is all it ever told: False also where there is no file.

        A last line that was cut had told nothing yet. Raises StateError.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Vital(), 0, False
        except OSError as error:
            raise refusal(self.path, error) from error
        *whole, cut = data.split(b"\n")
        vital, is_sound = Vital(), bool(whole)
        for line in whole:
            try:
                vital = vital.changed(*_decoded(line))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                is_sound = False
        self._size = len(data) - len(cut)
        return vital, len(whole), is_sound

    def append(self, seq: int, changes: Iterable[list[Any]]) -> None:
        """Returns once the lines are on the disk. Raises StateError; then none of them counts."""
        data = b"".join(_encoded(seq, change) for change in changes)
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(handle, self._size)
                os.lseek(handle, self._size, os.SEEK_SET)
                with os.fdopen(handle, "wb", closefd=False) as file:
                    file.write(data)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise refusal(self.path, error) from error
        self._size += len(data)

    def rewrite(self, vital: Vital) -> None:
        """The file anew, with no more than has to be in it. Raises StateError."""
        data = b"".join(_encoded(vital.seq, change) for change in [["format", 1], *vital.changes()])
        write_atomically(self.path, data, mode=0o600)
        self._size = len(data)


def remove(paths: Iterable[Path]) -> None:
    """Returns once these files are gone from the disk itself. Raises OSError."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        settle(folder)


def _encoded(seq: int, change: list[Any]) -> bytes:
    text = json.dumps([seq, change], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decoded(line: bytes) -> tuple[int, list[Any]]:
    """Raises ValueError."""
    if line[8:9] != b" " or int(line[:8], 16) != zlib.crc32(line[9:]):
        raise ValueError("the checksum does not fit")
    seq, change = json.loads(line[9:])
    return int(seq), list(change)
