"""Whether a candidate is better than the release it would replace. Pure: figures in, a verdict in sentences out."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from cloud_server.config import Gates


class Quality(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How good generated images are. fidelity: share of a condition's images the judge takes for that condition.

    KID and FID are in the judge's features against real images nobody was trained on, over the conditions the base
    release knew ("old") and over the others ("new", None when there are none).
    """

    fidelity: dict[int, float]
    images_per_condition: int
    kid_old: float
    fid_old: float
    kid_new: float | None
    fid_new: float | None
    out_of_range: float  # share of pixel values beyond 1.1


class Evaluation(BaseModel, frozen=True, extra="forbid"):
    """What is kept of an examined candidate. `as_base`: its quality when what it knows counts as old."""

    quality: Quality
    publish: bool
    reasons: tuple[str, ...]
    known: tuple[int, ...]
    as_base: Quality


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to publish, and why or why not."""

    publish: bool
    reasons: tuple[str, ...]


def verdict(before: Quality, after: Quality, known: Collection[int], gates: Gates) -> Verdict:
    """Compare two qualities measured alike; `known`: what the release before could make without an adapter."""
    faults = [
        f"condition {condition} fell from {before.fidelity[condition]:.3f} to {after.fidelity[condition]:.3f}, "
        f"more than {gates.max_fidelity_drop} is not allowed"
        for condition in sorted(known)
        if before.fidelity[condition] - after.fidelity[condition] > gates.max_fidelity_drop + 1e-9
    ]
    if after.kid_old - before.kid_old > gates.max_kid_rise:
        faults.append(f"KID of known conditions rose from {before.kid_old:.3f} to {after.kid_old:.3f}")
    if after.out_of_range > gates.max_out_of_range:
        faults.append(f"{after.out_of_range:.3f} of all values are out of range, {gates.max_out_of_range} are allowed")
    better, comparison = _gain(before, after, known, gates)
    if not better:
        faults.append(f"it is not better: {comparison}")
    return Verdict(not faults, tuple(faults) if faults else (f"it is better: {comparison}",))


def known_after(quality: Quality, known: Collection[int], gates: Gates) -> tuple[int, ...]:
    """What the new release may claim to make without an adapter."""
    return tuple(
        condition
        for condition in sorted(quality.fidelity)
        if condition in known or quality.fidelity[condition] >= gates.known_from
    )


def mean_fidelity(quality: Quality, conditions: Collection[int]) -> float:
    return float(np.mean([quality.fidelity[condition] for condition in conditions]))


def _gain(before: Quality, after: Quality, known: Collection[int], gates: Gates) -> tuple[bool, str]:
    new = before.fidelity.keys() - set(known)
    if not new:
        return after.kid_old < before.kid_old, f"KID went from {before.kid_old:.4f} to {after.kid_old:.4f}"
    was, now = mean_fidelity(before, new), mean_fidelity(after, new)
    return now - was >= gates.min_new_gain, f"new conditions went from {was:.3f} to {now:.3f}"
