"""Which variant answers a request: what the quality floor leaves, and of that the cheapest. Pure; costs are measured.

A request that says nothing is answered as well as by the usual variant while the device is cool, and down to the
owner's floor as it nears its limits: heat then costs quality before it costs an answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learning_core.errors import DewfallError
from protos.release import Variant

SPENT = "today's energy for answers is used up (serving.max_joules_per_day); it goes on tomorrow"
UNMEASURED = "no variant has been measured yet; ask again in some seconds"
AS_GOOD = 0.02  # qualities closer than this cannot be told apart on a golden set of some hundred images


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request asks for, all of it together. `min_quality` None: as good as usual, as far as heat allows."""

    min_quality: float | None = None
    max_latency_ms: float = math.inf
    max_joules: float = math.inf

    @property
    def is_bounded(self) -> bool:
        return self.min_quality is not None or min(self.max_latency_ms, self.max_joules) < math.inf

    def each_of(self, samples: int) -> "Needs":
        """What is left for one sample when the request is for several."""
        return Needs(self.min_quality, self.max_latency_ms / samples, self.max_joules / samples)


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant and what one sample of it is worth and takes on this device; nan until it has been measured.

    `quality`: 0..1. `absent`: why it cannot answer now.
    """

    variant: Variant
    quality: float = math.nan
    latency_ms: float = math.nan
    joules: float = math.nan
    absent: str = ""

    @property
    def is_known(self) -> bool:
        return not self.absent and math.isfinite(self.quality + self.latency_ms + self.joules)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who answers."""

    variant: Variant


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nobody answers, in a sentence."""

    reason: str


def needs_of(header: Mapping[str, Any]) -> Needs:
    """The needs a caller wrote: "min_quality" 0..1, "max_ms" and "max_joules" above 0. Raises DewfallError."""
    quality, ms, joules = (header.get(name) for name in ("min_quality", "max_ms", "max_joules"))
    if quality is not None and not (_is_number(quality) and 0 <= quality <= 1):
        raise DewfallError("give min_quality as a number from 0 to 1")
    for name, bound in (("max_ms", ms), ("max_joules", joules)):
        if bound is not None and not (_is_number(bound) and bound > 0):
            raise DewfallError(f"give {name} as a number above 0")
    return Needs(quality, math.inf if ms is None else ms, math.inf if joules is None else joules)


def route(
    variants: Sequence[Measured], needs: Needs, headroom: float, joules_left: float, floor: float = 0.0
) -> Chosen | Refused:
    """The cheapest variant that is good enough, or what none of them can keep.

    The first of `variants` is the one that the others are compared with. `headroom`: 1 cool .. 0 at a limit; `floor`:
    the lowest quality a hot device may fall to for requests that ask for none; `joules_left`: of today's.
    """
    first = variants[0]
    known = [each for each in variants if each.is_known]
    if not first.is_known and not needs.is_bounded and not first.absent and joules_left > 0:
        return Chosen(first.variant)  # before anything has been measured the usual one answers
    if joules_left <= 0:
        return Refused(SPENT)
    if not known:
        absent = [f"{each.variant.name!r} {each.absent}" for each in variants if each.absent]
        return Refused("; ".join(absent) if len(absent) == len(variants) else UNMEASURED)
    wanted = _wanted_quality(first if first.is_known else known[0], needs, headroom, floor)
    left = [each for each in known if each.quality >= wanted]
    if not left:
        return Refused(_too_poor(variants, known, wanted))
    for bound, of, what, unit in (
        (needs.max_latency_ms, _latency_ms, "takes", "ms"),
        (needs.max_joules, _joules, "costs", "J"),
    ):
        fitting = [each for each in left if of(each) <= bound]
        if not fitting:
            best = min(left, key=of)
            return Refused(
                f"no variant that is good enough {what} at most {bound:.3g} {unit} a sample: "
                f"{best.variant.name!r} {what} {of(best):.3g} {unit}"
            )
        left = fitting
    cheapest = min(left, key=_joules)
    if not cheapest.joules <= joules_left:
        return Refused(SPENT)
    return Chosen(cheapest.variant)


def _wanted_quality(first: Measured, needs: Needs, headroom: float, floor: float) -> float:
    if needs.min_quality is not None:
        return needs.min_quality
    top = first.quality - AS_GOOD
    lowest = min(floor, top)
    return lowest + headroom * (top - lowest)


def _too_poor(variants: Sequence[Measured], known: Sequence[Measured], wanted: float) -> str:
    best = max(known, key=lambda each: each.quality)
    others = "".join(f"; {each.variant.name!r} {each.absent}" for each in variants if each.absent)
    return f"no variant reaches a quality of {wanted:.3g}: {best.variant.name!r} has {best.quality:.3g}{others}"


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)


def _latency_ms(each: Measured) -> float:
    return each.latency_ms


def _joules(each: Measured) -> float:
    return each.joules
