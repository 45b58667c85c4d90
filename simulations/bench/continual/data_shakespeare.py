"""Tiny Shakespeare, parted for a model that has read all but two speakers, and then meets them."""

from dataclasses import dataclass
from pathlib import Path

from learning_core.errors import ConfigError, Malformed

FILE = "tinyshakespeare/input.txt"
SHOUTING, SPEAKING = b"MENENIUS", b"GLOUCESTER"  # whom the base never hears
TRAINED, LEARNED = 0.9, 0.85  # shares of the base's and of a speaker's turns that are learned from


@dataclass(frozen=True, slots=True)
class Parted:
    """A text to learn from and one to be judged by; both whole turns, in their order."""

    learn: bytes
    judge: bytes


@dataclass(frozen=True, slots=True)
class Shakespeare:
    """`base`: everyone else; `upper`: one speaker IN UPPER CASE, which the base has hardly seen; `speaker`: another."""

    base: Parted
    upper: Parted
    speaker: Parted


def load_shakespeare(data: Path) -> Shakespeare:
    """Raises ConfigError when the folder has no such file, Malformed when it is another text."""
    path = data / FILE
    if not path.is_file():
        raise ConfigError(f"{data} has no {FILE}; give the folder that holds the data sets with --data")
    return parted(path.read_bytes())


def parted(text: bytes) -> Shakespeare:
    """Turns are parted by empty lines and begin with who speaks and a colon. Raises Malformed."""
    turns = text.strip().split(b"\n\n")
    by_speaker: dict[bytes, list[bytes]] = {SHOUTING: [], SPEAKING: []}
    others: list[bytes] = []
    for turn in turns:
        by_speaker.get(turn.partition(b":\n")[0], others).append(turn)
    if not others or not all(by_speaker.values()):
        raise Malformed(f"this is not Tiny Shakespeare: {SHOUTING.decode()} or {SPEAKING.decode()} never speaks in it")
    upper = [turn.upper() for turn in by_speaker[SHOUTING]]
    return Shakespeare(_cut(others, TRAINED), _cut(upper, LEARNED), _cut(by_speaker[SPEAKING], LEARNED))


def _cut(turns: list[bytes], share: float) -> Parted:
    first = round(share * len(turns))
    return Parted(_joined(turns[:first]), _joined(turns[first:]))


def _joined(turns: list[bytes]) -> bytes:
    return b"".join(turn + b"\n\n" for turn in turns)
