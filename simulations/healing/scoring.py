"""What came of the episodes: which faults did harm, which were found, named and mended, and how soon."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.healing.diagnosis import Cause
from edge_agent.healing.incident import Incident, Outcome
from simulations.healing.episodes import Episode, Plan
from simulations.healing.faults import RAMP_TICKS
from simulations.report import Claim

ERRORS = 2.0  # standard errors that make a difference one
WINDOW = 4  # ticks over which answers have to be good again
LAST = 10  # ticks at an episode's end
CONFIDENCE_Z = 1.96


@dataclass(frozen=True, slots=True)
class Result:
    """One fault on one device. Shares of good answers by tick: unharmed (nothing went wrong), unhealed, healed."""

    name: str
    plan: Plan
    unharmed: NDArray[np.float64]
    unhealed: NDArray[np.float64]
    healed: Episode

    @property
    def is_harmful(self) -> bool:
        """Left alone, once the fault is all there, the share of good answers falls by more than its noise."""
        there = slice(RAMP_TICKS if self.plan.ramped else 0, None)
        return _fell(self.unharmed[there], self.unhealed[there], self.plan.requests)

    @property
    def found(self) -> tuple[tuple[int, Incident], ...]:
        """Incidents in which a cause was named, with their ticks."""
        return tuple(each for each in self.healed.incidents if each[1].causes)

    @property
    def acted(self) -> tuple[tuple[int, Incident], ...]:
        return tuple(each for each in self.healed.incidents if each[1].acted)

    @property
    def detected_at(self) -> int | None:
        """The tick of the first incident in which something harmful was named."""
        ticks = [tick for tick, incident in self.found if incident.outcome is not Outcome.LOGGED]
        return ticks[0] if ticks else None

    @property
    def named(self) -> frozenset[Cause]:
        return frozenset(cause for _, incident in self.found for cause in incident.causes) - {Cause.HARMLESS}

    @property
    def is_right(self) -> bool:
        """Exactly the causes that there were."""
        return self.named == {fault.cause for fault in self.plan.faults} - {Cause.HARMLESS, None}

    @property
    def harm_at(self) -> int:
        """From which tick on answers are worse, left alone: 0 for a sudden fault."""
        ticks, asked = len(self.unhealed), self.plan.requests
        worse = (t for t in range(ticks) if _fell(self.unharmed[t : t + WINDOW], self.unhealed[t : t + WINDOW], asked))
        return next(worse, ticks) if self.plan.ramped else 0

    def ticks_to_recover(self, since: int) -> int:
        """Ticks from `since` until the answers of the next ones are as good as unharmed, within noise."""
        good, unharmed, ticks = self.healed.good, self.unharmed, len(self.healed.good)
        for tick in range(since, ticks):
            ahead = slice(tick, tick + WINDOW)
            if not _fell(unharmed[ahead], good[ahead], self.plan.requests):
                return tick - since
        return ticks - since

    @property
    def gap(self) -> float:
        """What is missing of the unharmed share in the last ticks."""
        return float(self.unharmed[-LAST:].mean() - self.healed.good[-LAST:].mean())


@dataclass(frozen=True, slots=True)
class Quiet:
    """Ticks in which nothing harmful happened, and the incidents in which something was done none the less."""

    ticks: int
    acted: int
    looked: int  # incidents that re-runs ended


def recovery(result: Result) -> int:
    """Ticks until answers are good again: after a sudden fault, or after a ramped one was found."""
    found = result.detected_at
    since = found if result.plan.ramped and found is not None else 0
    return result.ticks_to_recover(since)


def claims(results: Sequence[Result], quiet: Quiet) -> list[Claim]:
    """The figures beside their targets, with 95 % intervals."""
    harmful = [each for each in results if each.is_harmful]
    found = [each for each in harmful if each.detected_at is not None]
    took = np.array([recovery(each) for each in harmful] or [0])
    gaps = np.array([each.gap for each in harmful] or [0.0])
    margin = CONFIDENCE_Z * float(gaps.std(ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    per_1000 = 1000 / max(1, quiet.ticks)
    return [
        _share("detection", "Harmful faults are found", len(found), len(harmful), 0.99),
        _share(
            "diagnosis", "Their causes are named, all and no other", sum(e.is_right for e in found), len(found), 0.95
        ),
        Claim(
            "healing.false_per_1000_ticks",
            "Nothing is done where nothing harmful happens",
            quiet.acted * per_1000,
            "remedies per 1,000 ticks",
            "at_most",
            1.0,
            *(bound * per_1000 for bound in _poisson(quiet.acted)),
        ),
        Claim(
            "healing.ticks_to_recover",
            "Answers are good again soon: 95th percentile, ramped faults from when they were found",
            float(np.quantile(took, 0.95)),
            "ticks",
            "at_most",
            3.0,
        ),
        Claim(
            "healing.good_share_gap",
            "As many answers are good as if nothing had happened",
            float(gaps.mean()),
            "share",
            "at_most",
            0.02,
            float(gaps.mean()) - margin,
            float(gaps.mean()) + margin,
        ),
    ]


def wilson(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share. Wilson 1927 (J. Am. Stat. Assoc. 22)."""
    if not of:
        return 0.0, 1.0
    share, z = hits / of, CONFIDENCE_Z
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(name: str, statement: str, hits: int, of: int, target: float) -> Claim:
    value = hits / of if of else 0.0
    return Claim(
        f"healing.{name}", f"{statement} ({hits} of {of})", value, "share", "at_least", target, *wilson(hits, of)
    )


def _poisson(count: int) -> tuple[float, float]:
    """About 95 % of a Poisson mean; 3 above a count of none. Byar's approximation (Breslow and Day 1987)."""
    if not count:
        return 0.0, 3.0

    def bound(number: float, sign: float) -> float:
        return number * (1 - 1 / (9 * number) + sign * CONFIDENCE_Z / (3 * math.sqrt(number))) ** 3

    return bound(count, -1), bound(count + 1, 1)


def _fell(before: NDArray[np.float64], after: NDArray[np.float64], requests: int) -> bool:
    """Whether a share of good answers fell by more than twice the standard error of the difference."""
    answers = max(1, len(before) * requests)
    share = float(np.clip(before.mean(), 1 / answers, 1 - 1 / answers))
    return bool(before.mean() - after.mean() > ERRORS * math.sqrt(2 * share * (1 - share) / answers))
