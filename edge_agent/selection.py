"""Which samples a person wants forgotten, and what was removed for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learning_core.errors import ConfigError

MAX_KEY = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class OneSample:
    """The sample that is kept under this key."""

    key: int


@dataclass(frozen=True, slots=True)
class OneClass:
    """Every sample of this condition."""

    condition: int


@dataclass(frozen=True, slots=True)
class Everything:
    """Every sample, and every file that waits or was refused."""


Selection = OneSample | OneClass | Everything


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What is gone: samples of the memory, and files of the spool, removed or written anew without them.

    `unread`: files of the spool that may hold such samples and do not let one tell; they are still there.
    `untold`: jobs that a fog may have samples of and could not yet be told to drop.
    """

    samples: int
    files: int
    unread: Sequence[str]
    untold: int = 0


def selection_of(asked: Mapping[str, Any]) -> Selection:
    """Exactly one of {"sample": key}, {"class": condition} and {"all": True}. Raises ConfigError."""
    given = {name: asked.get(name) for name in ("sample", "class", "all")}
    match {name: value for name, value in given.items() if value is not None and value is not False}:
        case {"sample": key, **rest} if not rest and _is_key(key):
            return OneSample(key)
        case {"class": condition, **rest} if not rest and _is_key(condition):
            return OneClass(condition)
        case {"all": True, **rest} if not rest:
            return Everything()
    raise ConfigError("say what to forget: one of --sample KEY, --class N and --all, with a whole number from 0")


def selected_in_words(selection: Selection) -> str:
    match selection:
        case OneSample(key):
            return f"sample {key}"
        case OneClass(condition):
            return f"every sample of class {condition}"
        case Everything():
            return "every sample, with the files that wait or were refused"


def forgotten_in_words(forgotten: Mapping[str, Any]) -> str:
    """The tree of `Forgotten` for a terminal."""
    lines = [f"forgotten: {forgotten['samples']} samples, {forgotten['files']} files of the spool"]
    if forgotten["unread"]:
        lines.append(f"these may hold more and cannot be read, so look at them: {', '.join(forgotten['unread'])}")
    if forgotten["untold"]:
        jobs = f"the fog may still have samples of {forgotten['untold']} jobs and cannot be reached"
        lines.append(f"{jobs}; the agent tells it to drop them when it is back, as long as offload.enabled is set")
    return "\n".join(lines)


def _is_key(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_KEY
