"""Two places for whatever is served, an old one and a new one on trial: pure transitions, stored before acted on.

The same for releases, for the shared adapter and for the personal one. A thing is known by a name; "" is nothing at
all. No sign of health is a failure: a process that ends again and again while it serves a new thing ends that trial.
Cf. the slots of RAUC, and the versions that only grow of TUF clients.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from learning_core.errors import DewfallError, Malformed

RELEASE, SHARED, PERSONAL = "release", "shared", "personal"
MAX_STARTS = 3  # of the agent with one and the same thing on trial
NOTHING = ""
BY_A_PERSON = "a person went back from it"
ON = "@"  # <digest of a personal adapter>@<digest of the shared one below it>
_MAX_NAME = 160


@dataclass(frozen=True, slots=True)
class Slots:
    """`good` serves unless something is on trial; `previous` was good before it, until a trial takes its place."""

    good: str = NOTHING
    trial: str = NOTHING
    previous: str = NOTHING
    starts: int = 0  # with what is on trial
    newest: int = 0  # the highest version that was ever here, of what has versions

    @property
    def served(self) -> str:
        return self.trial or self.good

    @property
    def kept(self) -> frozenset[str]:
        """What has to stay on the disk."""
        return frozenset({self.good, self.trial, self.previous} - {NOTHING})


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A thing on trial; since when, and since when nothing else that is served has changed either, on a clock."""

    kind: str
    name: str
    since_s: float
    unchanged_s: float = field(compare=False)


def tried(slots: Slots, name: str, version: int = 0) -> Slots:
    """Put `name` on trial, in the place of the last trial or of what was good before."""
    if name == NOTHING:
        raise ValueError("nothing cannot be on trial")
    newest = max(slots.newest, version)
    if name == slots.served:
        return replace(slots, newest=newest)
    if name == slots.good:
        return Slots(good=name, newest=newest)
    return Slots(good=slots.good, trial=name, starts=1, newest=newest)


def passed(slots: Slots) -> Slots:
    """What is on trial is good from now on."""
    return Slots(good=slots.trial, previous=slots.good, newest=slots.newest) if slots.trial else slots


def fallen_back(slots: Slots) -> Slots:
    """Back to what is good, or, where nothing is on trial, to what was good before. Who falls is to be banned."""
    left = Slots(good=slots.good if slots.trial else slots.previous, newest=slots.newest)
    same = left.served and digest_in(left.served) == digest_in(slots.served)
    return Slots(newest=slots.newest) if same else left


def started(slots: Slots) -> Slots:
    """The process has begun anew: one start more for what is on trial."""
    return replace(slots, starts=slots.starts + 1) if slots.trial else slots


def stopped(slots: Slots) -> Slots:
    """The process ends in order: its start says nothing against what is on trial."""
    return replace(slots, starts=slots.starts - 1) if slots.trial and slots.starts else slots


def has_failed(slots: Slots) -> bool:
    """Whether a trial has had all its starts, none of which came to an end in order."""
    return bool(slots.trial) and slots.starts > MAX_STARTS


def going_back(slots: Mapping[str, Slots], asked: str | None) -> tuple[str, Slots]:
    """Which of release, shared and personal goes back, and what is then in its slots. Raises DewfallError.

    Where nobody says, what changed last: a trial before what is good, and an adapter before all. What is good of a
    release is given up only for somebody who asks for that.
    """
    order = (PERSONAL, SHARED, RELEASE)
    on_trial = [kind for kind in order if slots[kind].trial]
    good = [kind for kind in order[:2] if slots[kind].good]
    kind = asked or next(iter(on_trial + good), None)
    if kind is None:
        text = "the base of a release is served, with no adapter of this device"
        raise DewfallError(f"{text}; with --release, the device goes back to the release before")
    left = fallen_back(slots[kind])
    if kind == RELEASE and not left.served:
        raise DewfallError("there is no earlier release on this device to go back to")
    if not slots[kind].served:
        raise DewfallError(f"there is no {kind} adapter to go back from")
    return kind, left


def digest_in(name: str) -> str:
    """The digest of an adapter, whatever it was proven on."""
    return name.partition(ON)[0]


def proven(personal: Slots, shared: Slots) -> Slots:
    """Those of a personal adapter; empty while it does not go with the shared one that is served, nor is served."""
    return personal if below(personal.served) == shared.served else Slots()


def below(name: str) -> str:
    """The digest of the shared adapter that a personal one was proven on, "" for none."""
    return name.partition(ON)[2]


def encode_slots(slots: Slots) -> dict[str, Any]:
    return asdict(slots)


def decode_slots(tree: Any) -> Slots:
    """Inverse of `encode_slots`; None, which was never stored, is empty slots. Raises Malformed."""
    if tree is None:
        return Slots()
    if not isinstance(tree, dict) or tree.keys() != set(Slots.__slots__):
        raise Malformed(f"slots hold {', '.join(Slots.__slots__)}")
    names, numbers = [tree[each] for each in ("good", "trial", "previous")], [tree["starts"], tree["newest"]]
    if not all(isinstance(name, str) and len(name) <= _MAX_NAME for name in names):
        raise Malformed("the names in slots are short texts")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise Malformed("starts and versions of slots are whole numbers")
    slots = Slots(**tree)
    if slots.trial and (slots.previous or slots.trial == slots.good):
        raise Malformed("two slots do not hold three things")
    return slots
