"""What becomes of the aggregates that fogs send: counted together, waited with, or refused. Pure decisions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from learning_core.updates import ModelVersion


@dataclass(frozen=True, slots=True)
class Buffered:
    """An accepted aggregate that is not part of a shared version yet."""

    fog: str
    round: int
    received_at_s: float


def screen(base: ModelVersion, shared: ModelVersion, max_staleness: int, distilling: bool) -> str | None:
    """Why an aggregate on `base` can never be counted, in words; None when it can. `shared`: the newest version."""
    if base > shared:
        return f"version {base} was never given out; the newest is {shared}"
    if base.release < shared.release:
        return f"superseded: release {shared.release} replaced the release {base.release} it changes"
    if distilling:
        return f"superseded: {shared} is being distilled into release {shared.release + 1}"
    if shared.step - base.step > max_staleness:
        return f"stale: {shared.step - base.step} steps behind {shared}, at most {max_staleness} are counted"
    return None


def consolidate_at_s(buffered: Sequence[Buffered], fogs: Collection[str], patience_s: float) -> float | None:
    """When to consolidate, in epoch seconds: at once when every fog delivered, else when patience ends; None: never."""
    if not buffered:
        return None
    first = min(each.received_at_s for each in buffered)
    return first if set(fogs) <= {each.fog for each in buffered} else first + patience_s


def release_is_due(step: int, last_attempt: int, steps_per_release: int) -> bool:
    """Whether enough was consolidated since the release, or since the last candidate that was not good enough."""
    return step - last_attempt >= steps_per_release
