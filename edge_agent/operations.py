"""What programs on the same device may ask of the agent through its socket."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edge_agent.router import needs_of
from edge_agent.selection import Forgotten, Selection, selection_of
from edge_agent.serving import Serving
from edge_agent.slots import BY_A_PERSON, PERSONAL, RELEASE
from learning_core.errors import DewfallError

MAX_DECISIONS = 200  # one answer holds no more
MAX_INCIDENTS = 200
MAX_SAMPLES = 10_000
MAX_OBSERVATIONS = 1024
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
        if not isinstance(conditions, list) or not all(_is_small(each) for each in conditions):
            raise DewfallError("give the conditions as a list of whole numbers")
        if not 1 <= len(conditions) <= max_count:
            raise DewfallError(f"ask for 1 to {max_count} samples at a time")
        drawn = serving.draw(conditions, _seed(header), needs_of(header))
        told = {"shape": list(drawn.samples.shape), "variant": drawn.variant, "took_ms": drawn.took_ms}
        return told, drawn.samples.astype("<f4", copy=False).tobytes()

    def measure(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        condition = header.get("condition")
        if type(condition) is not int or not _is_small(condition):
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


def looking_back(
    incidents: Callable[[int], Sequence[Mapping[str, Any]]], counts: Callable[[], Mapping[str, int]]
) -> dict[str, Operation]:
    """What a person may ask of healing: what went wrong, what was done, and what came of it."""

    def last(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        return {"incidents": incidents(_count(header, MAX_INCIDENTS, "incidents")), "counts": counts()}, b""

    return {"incidents": last}


def keeping(
    newest: Callable[[int], Sequence[Mapping[str, Any]]], forget: Callable[[Selection], Forgotten]
) -> dict[str, Operation]:
    """What a person may ask of the memory: what is kept under which key, and to forget it."""

    def samples(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        return {"samples": newest(_count(header, MAX_SAMPLES, "samples"))}, b""

    return {"samples": samples, "forget": lambda header: ({"forgotten": asdict(forget(selection_of(header)))}, b"")}


def going_back(
    roll_back: Callable[[str, str | None], str], drop_personal: Callable[[], str], lift: Callable[[str], bool]
) -> dict[str, Operation]:
    """What a person may ask about what is served: to go back, and to allow again what is banned."""

    def back(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        kind = header.get("kind")
        if kind not in (None, RELEASE, PERSONAL):  # a set would have to hash what came
            raise DewfallError("go back from the release, from the personal adapter, or from what changed last")
        return {"told": drop_personal() if kind == PERSONAL else roll_back(BY_A_PERSON, kind)}, b""

    def allow(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        digest = header.get("digest")
        if not isinstance(digest, str) or not lift(digest):
            raise DewfallError("nothing with this digest is banned; `status --json` lists what is")
        return {"told": "it may be installed again"}, b""

    return {"rollback": back, "lift": allow}


def observing(take: Callable[[Sequence[Any]], Mapping[str, Any]]) -> dict[str, Operation]:
    """What programs may bring: observations, as many of them as are waiting room for."""

    def observe(header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        observations = header.get("observations")
        if not isinstance(observations, list) or not 1 <= len(observations) <= MAX_OBSERVATIONS:
            raise DewfallError(f"give observations as a list of 1 to {MAX_OBSERVATIONS}")
        return take(observations), b""

    return {"observe": observe}


def _count(header: Mapping[str, Any], most: int, what: str) -> int:
    count = header.get("count")
    if type(count) is not int or not 1 <= count <= most:
        raise DewfallError(f"ask for the last 1 to {most} {what}")
    return count


def _is_small(value: Any) -> bool:
    return type(value) is int and -(1 << 31) <= value < 1 << 31


def _seed(header: Mapping[str, Any]) -> int:
    seed = header.get("seed")
    if seed is None:
        return secrets.randbits(32)
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise DewfallError("a seed is a whole number from 0 to 2^64 - 1")
    return seed
