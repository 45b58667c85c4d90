"""Long work as a row of artefacts: what stands on the shelf is never made again, so a killed process loses one step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cloud_server.ports import Clock, Report, Shelf

SECONDS = ".seconds"


@dataclass(frozen=True, slots=True)
class Step:
    """`make` returns the bytes of the artefact `name`; it may read what earlier steps made, and may be run twice."""

    name: str
    make: Callable[[Report], bytes]


def run(steps: Sequence[Step], shelf: Shelf, clock: Clock, report: Report) -> None:
    """Make what is missing, in order, and note how long each took."""
    for step in steps:
        if not shelf.has(step.name):
            begun_s = clock()
            data = step.make(report)
            shelf.write(f"{step.name}{SECONDS}", f"{clock() - begun_s:.3f}".encode())
            shelf.write(step.name, data)
        report(step.name, 1, 1)


def seconds(names: Iterable[str], shelf: Shelf) -> dict[str, float]:
    """How long each artefact took, of those that were made."""
    return {name: float(shelf.read(f"{name}{SECONDS}")) for name in names if shelf.has(f"{name}{SECONDS}")}
