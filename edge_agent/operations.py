"""What programs on the same device may ask of the agent through its socket."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edge_agent.selection import Forgotten, Selection, selection_of
from edge_agent.serving import Serving
from learning_core.errors import DewfallError

MAX_DECISIONS = 200  # one answer holds no more
MAX_SAMPLES = 10_000
Operation = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], bytes]]


def operations(
    serving: Serving,
    status: Callable[[], Mapping[str, Any]],
    pause: Callable[[bool], None],
    pair: Callable[[int, int], Mapping[str, Any]],
    max_count: int,
) -> dict[str, Operation]:
    """The operations by name; each raises DewfallError with a sentence for the caller."""

    def infer(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        conditions = header.get("conditions")
        if not isinstance(conditions, list) or not all(type(each) is int for each in conditions):
            raise DewfallError("give the conditions as a list of whole numbers")
        if not 1 <= len(conditions) <= max_count:
            raise DewfallError(f"ask for 1 to {max_count} samples at a time")
        samples = serving.answer(conditions, _seed(header))
        return {"shape": list(samples.shape)}, samples.astype("<f4").tobytes()

    def measure(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        condition = header.get("condition")
        if type(condition) is not int:
            raise DewfallError("give the condition as a whole number")
        return pair(condition, _seed(header)), b""

    def set_pause(value: bool) -> tuple[Mapping[str, Any], bytes]:
        pause(value)
        return {"paused": value}, b""

    return {
        "status": lambda _: ({"status": status()}, b""),
        "infer": infer,
        "overhead": measure,
        "pause": lambda _: set_pause(True),
        "resume": lambda _: set_pause(False),
    }


def governing(
    force: Callable[[], None], decisions: Callable[[int], Sequence[Mapping[str, Any]]]
) -> dict[str, Operation]:
    """What a person may ask of the governor: to train now, and what it has decided."""

    def force_now(_: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        force()
        return {"forced": True}, b""

    def last(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        return {"decisions": decisions(_count(header, MAX_DECISIONS, "decisions"))}, b""

    return {"force": force_now, "decisions": last}


def keeping(
    newest: Callable[[int], Sequence[Mapping[str, Any]]], forget: Callable[[Selection], Forgotten]
) -> dict[str, Operation]:
    """What a person may ask of the memory: what is kept under which key, and to forget it."""

    def samples(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        return {"samples": newest(_count(header, MAX_SAMPLES, "samples"))}, b""

    return {"samples": samples, "forget": lambda header: ({"forgotten": asdict(forget(selection_of(header)))}, b"")}


def _count(header: Mapping[str, Any], most: int, what: str) -> int:
    count = header.get("count")
    if type(count) is not int or not 1 <= count <= most:
        raise DewfallError(f"ask for the last 1 to {most} {what}")
    return count


def _seed(header: Mapping[str, Any]) -> int:
    seed = header.get("seed")
    if seed is None:
        return secrets.randbits(32)
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise DewfallError("a seed is a whole number from 0 to 2^64 - 1")
    return seed
