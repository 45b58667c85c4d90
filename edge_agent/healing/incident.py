"""What went wrong once, what was found and done, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum

from edge_agent.healing.diagnosis import Cause
from edge_agent.healing.playbook import Remedy
from edge_agent.healing.signals import Signal


class Outcome(StrEnum):
    """How an incident ended."""

    HEALED = "healed"
    LOGGED = "logged"  # a change that does no harm
    GAVE_UP = "gave_up"  # nothing that may be done helped: a person should look
    PASSED = "passed"  # the re-runs found nothing wrong


@dataclass(frozen=True, slots=True)
class Tried:
    """One remedy and whether the cause was gone after it; None: it helps later, or that was not seen."""

    cause: Cause
    remedy: Remedy
    worked: bool | None


@dataclass(frozen=True, slots=True)
class Incident:
    """From the tick in which signals tripped to the one in which it was over."""

    began_tick: int
    ended_tick: int
    signals: tuple[Signal, ...]
    causes: tuple[Cause, ...]
    tried: tuple[Tried, ...]
    outcome: Outcome
    sentence: str

    @property
    def acted(self) -> bool:
        return bool(self.tried)


def in_words(causes: tuple[Cause, ...], tried: tuple[Tried, ...], outcome: Outcome) -> str:
    """One sentence for a person."""
    what = " and ".join(_CAUSES[cause] for cause in causes) or "nothing wrong was found"
    done = ", then ".join(_REMEDIES[each.remedy] for each in tried)
    match outcome:
        case Outcome.HEALED:
            return f"{what}; {done or 'it went by itself'}, and answers are as usual again"
        case Outcome.GAVE_UP:
            tail = "look at `dewfall edge status`, or switch the remedies on that [healing] off names"
            return f"{what}; {done or 'nothing could be done'}, and it did not help: {tail}"
        case Outcome.LOGGED:
            return f"{what}; nothing was done"
    return f"{what}; the re-runs agree with what is usual"


_CAUSES = {
    Cause.CORRUPT: "a file of the release was changed",
    Cause.MODEL: "the student became worse",
    Cause.SAMPLER: "samples are not drawn as intended",
    Cause.NONDETERMINISM: "equal requests get different answers",
    Cause.CONDITION: "what is asked does not reach the student",
    Cause.INPUT: "what is asked now is done badly",
    Cause.THROTTLE: "the device is slowed down",
    Cause.HARMLESS: "the student changed and answers as well as before",
}
_REMEDIES = {
    Remedy.REVERIFY: "the release was verified and loaded anew",
    Remedy.RESTORE_SAMPLER: "the sampler was set as intended",
    Remedy.CHEAPER: "a cheaper variant answers",
    Remedy.CACHE: "healed outputs answer",
    Remedy.ROLL_BACK: "the student before was put back",
    Remedy.ASK_FOR_DATA: "samples of these conditions are kept for training",
    Remedy.USUAL: "the usual variant answers again",
}
