"""What may be done about each cause, what worked best first: counts, and a prior in the usual order."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from edge_agent.healing.diagnosis import Cause


class Remedy(StrEnum):
    """What can be done."""

    REVERIFY = "reverify"  # check the files again and load them anew
    RESTORE_SAMPLER = "restore_sampler"
    CHEAPER = "cheaper"  # answer with a cheaper variant
    CACHE = "cache"  # answer from healed outputs
    ROLL_BACK = "roll_back"  # to the student before
    ASK_FOR_DATA = "ask_for_data"  # of the conditions that are done badly; helps later
    USUAL = "usual"  # back to the usual variant, when the reason for a cheaper one is gone


LATER = frozenset({Remedy.ASK_FOR_DATA})  # what does not help at once is not judged by what is seen at once

USUALLY: Mapping[Cause, tuple[Remedy, ...]] = MappingProxyType(
    {
        Cause.CORRUPT: (Remedy.REVERIFY, Remedy.ROLL_BACK),
        Cause.MODEL: (Remedy.REVERIFY, Remedy.ROLL_BACK),
        Cause.SAMPLER: (Remedy.RESTORE_SAMPLER, Remedy.REVERIFY),
        Cause.NONDETERMINISM: (Remedy.REVERIFY, Remedy.CACHE),
        Cause.CONDITION: (Remedy.REVERIFY, Remedy.CACHE),
        Cause.INPUT: (Remedy.ASK_FOR_DATA, Remedy.CACHE),
        Cause.THROTTLE: (Remedy.CHEAPER,),
        Cause.HARMLESS: (),
    }
)
PRIOR = 2.0  # tries that the usual order is worth
NEXT = 0.8  # expected success of each remedy in the usual order, over that of the one before


@dataclass(frozen=True, slots=True)
class Record:
    """How often a remedy was tried for a cause, and what came of it."""

    worked: int = 0
    failed: int = 0


Playbook = Mapping[tuple[Cause, Remedy], Record]


def ranked(cause: Cause, playbook: Playbook, off: frozenset[str] = frozenset()) -> tuple[Remedy, ...]:
    """The remedies for a cause that are not switched off, the most promising first; what helps later comes first."""
    usual = USUALLY[cause]

    def promise(remedy: Remedy) -> float:
        record = playbook.get((cause, remedy), Record())
        prior = NEXT ** (1 + usual.index(remedy))
        return (record.worked + PRIOR * prior) / (record.worked + record.failed + PRIOR)

    open_ = [remedy for remedy in usual if remedy not in off]
    return tuple(sorted(open_, key=lambda remedy: (remedy not in LATER, -promise(remedy))))


def learned(playbook: Playbook, cause: Cause, remedy: Remedy, *, worked: bool) -> dict[tuple[Cause, Remedy], Record]:
    """The playbook with one more outcome."""
    record = playbook.get((cause, remedy), Record())
    return {**playbook, (cause, remedy): Record(record.worked + worked, record.failed + (not worked))}
