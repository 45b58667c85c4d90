"""Whether a student may be served: made to draw a release's golden set in every setting, and looked at from outside.

Class fidelity alone saturates and KID alone misses wrong labels, so no figure decides alone. What honest learning does
to a release was measured by whoever made it; what goes further than that is held, and what breaks the release's hard
limits is banned. What cannot be measured is not accepted.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edge_agent.examination import Base, Pace, base_of, measure, measure_all, nearness_of, pace_of
from edge_agent.ports import Release
from edge_agent.values import Golden
from learning_core.metrics.golden import HARMS, Figures, Harms, harms
from learning_core.params import Params
from learning_core.samples import Batch
from protos.release import STUDENT_GRAPH, USUAL, Manifest

ROUNDING = 1e-6  # shares are ratios of counts: what is exactly at a limit is within it
SAID = {
    "fidelity": "fidelity",
    "kid": "KID",
    "out_of_range": "the share out of range",
    "agreement": "agreement with the teacher",
    "memorising": "likeness to what it learned from",
}


@dataclass(frozen=True, slots=True)
class Accept:
    """Good enough to be served."""

    figures: Figures


@dataclass(frozen=True, slots=True)
class Hold:
    """Further from the base than honest learning goes, within the release's hard limits: not served, not banned."""

    figures: Figures
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RollBack:
    """Not to be served ever, with every reason."""

    figures: Figures
    reasons: tuple[str, ...]


Verdict = Accept | Hold | RollBack


def sound(found: Figures, golden: Golden, limits: Manifest) -> Accept | RollBack:
    """Whether the base of a release does here what its maker saw it do, within the hard limits."""
    reasons = _beyond_limits(found, replace(found, fidelity=golden.base_fidelity, kid=golden.base_kid), limits)
    return RollBack(found, reasons) if reasons else Accept(found)


def verdict(found: Mapping[str, Figures], base: Base, limits: Manifest, pace: Pace | None = None) -> Verdict:
    """Accept, or every reason against it. Figures by variant, the usual one first.

    The hard limits are the usual setting's: another one can only hold an adapter, and so can a student that is slow,
    which may be the fault of the device.
    """
    hard, soft = list[str](), list[str]()
    for name, seen in found.items():
        where = "" if name == USUAL else f"as {name}: "
        if name == USUAL or not seen.finite:
            hard += [where + reason for reason in _beyond_limits(seen, base.figures[name], limits)]
        soft += [where + reason for reason in _beyond_bounds(seen, base.figures[name], base.bounds[name])]
    if pace is not None and not pace.slowdown <= pace.bound:
        soft.append(f"it takes {pace.slowdown:.2f} times as long as without an adapter, more than {pace.bound:.2f}")
    figures_ = next(iter(found.values()))
    if hard:
        return RollBack(figures_, tuple(hard))
    return Hold(figures_, tuple(soft)) if soft else Accept(figures_)


class Guard:
    """Checks adapters on releases. Remembers what the base of the last one does here; nothing is saved."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._base: tuple[str, Base] | None = None
        self._turn = threading.Lock()

    def check(self, release: Release, inputs: Params | None, learned_from: Batch | None = None) -> Verdict:
        """Of adapter inputs. `learned_from`: what it may be repeating. Raises Malformed when they do not fit."""
        engines = {graph: engine.adapted(inputs) for graph, engine in release.engines.items()}
        found = measure_all(engines, release)
        first = next(iter(found))
        if learned_from is not None and found[first].finite:
            near = nearness_of(engines[STUDENT_GRAPH], release, learned_from)
            found[first] = replace(found[first], nearness=near)
        pace = pace_of(engines[STUDENT_GRAPH], release, self._clock)
        return verdict(found, self.base(release), release.manifest, pace)

    def check_base(self, release: Release) -> Accept | RollBack:
        """Of a release as it is loaded now, whatever was learned on it."""
        manifest = release.manifest
        found = measure(release.engine, release.judge, release.golden, manifest.steps, manifest.guidance)
        return sound(found, release.golden, manifest)

    def base(self, release: Release) -> Base:
        with self._turn:
            if self._base is None or self._base[0] != release.digest:
                self._base = (release.digest, base_of(release))
            return self._base[1]


def _beyond_limits(found: Figures, base: Figures, limits: Manifest) -> tuple[str, ...]:
    if not found.finite:
        return ("its samples are not finite",)
    drop, rise = base.fidelity - found.fidelity, found.kid - base.kid
    reasons = []
    if not drop <= limits.max_fidelity_drop + ROUNDING:
        reasons.append(f"fidelity fell by {drop:.3f}, more than {limits.max_fidelity_drop:g}")
    if not rise <= limits.max_kid_rise:
        reasons.append(f"KID rose by {rise:.3f}, more than {limits.max_kid_rise:g}")
    if not found.out_of_range <= limits.max_out_of_range:
        reasons.append(f"{found.out_of_range:.3f} of values are out of range, more than {limits.max_out_of_range:g}")
    return tuple(reasons)


def _beyond_bounds(found: Figures, base: Figures, most: Harms) -> tuple[str, ...]:
    if not found.finite:
        return ()
    harm = harms(found, base)
    return tuple(
        f"{SAID[name]} went {value:.3f} from the base, healthy updates stay below {bound:.3f}"
        for name, value, bound in zip(HARMS, harm, most, strict=True)
        if value > bound + ROUNDING
    )
