"""Whether a student may be served: made to draw a release's golden set and looked at from outside.

Class fidelity alone saturates and KID alone misses wrong labels, so both are bounded, and the share of values out of
range with them. What cannot be measured is not accepted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.ports import Engine, Judge
from edge_agent.values import Golden
from learning_core.errors import Malformed
from learning_core.metrics.images import class_fidelity, kid, out_of_range_share
from protos.release import Manifest


@dataclass(frozen=True, slots=True)
class Figures:
    """How a student does on the golden set; the shares are meaningless unless `finite`."""

    fidelity: float
    kid: float
    out_of_range: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Accept:
    """Good enough to be served."""

    figures: Figures


@dataclass(frozen=True, slots=True)
class RollBack:
    """Not to be served, with every reason."""

    figures: Figures
    reasons: tuple[str, ...]


Verdict = Accept | RollBack


def measure(engine: Engine, judge: Judge, golden: Golden, steps: int, guidance: float) -> Figures:
    """Draw the golden set with this student and look at it."""
    samples = engine.generate(golden.noise, golden.conditions, steps, guidance)
    if not np.isfinite(samples).all():
        return Figures(0.0, 0.0, 1.0, finite=False)
    logits, features = judge.look(samples)
    if not (np.isfinite(logits).all() and np.isfinite(features).all()):
        return Figures(0.0, 0.0, 1.0, finite=False)
    fidelity = class_fidelity(logits, golden.conditions)
    return Figures(fidelity, kid(features, golden.real_features), out_of_range_share(samples), finite=True)


def verdict(figures: Figures, golden: Golden, limits: Manifest) -> Verdict:
    """Accept, or every reason against it, compared with what the base of the release does itself."""
    if not figures.finite:
        return RollBack(figures, ("its samples are not finite",))
    drop, rise = golden.base_fidelity - figures.fidelity, figures.kid - golden.base_kid
    reasons = []
    if not drop <= limits.max_fidelity_drop:
        reasons.append(f"fidelity fell by {drop:.3f}, more than {limits.max_fidelity_drop:g}")
    if not rise <= limits.max_kid_rise:
        reasons.append(f"KID rose by {rise:.3f}, more than {limits.max_kid_rise:g}")
    if not figures.out_of_range <= limits.max_out_of_range:
        reasons.append(f"{figures.out_of_range:.3f} of values are out of range, more than {limits.max_out_of_range:g}")
    return RollBack(figures, tuple(reasons)) if reasons else Accept(figures)


def golden_set(tensors: Mapping[str, Any], num_conditions: int) -> Golden:
    """What a release's golden file holds. Raises Malformed."""
    if tensors.keys() != {"noise", "conditions", "base_fidelity", "real_features", "base_kid"}:
        raise Malformed("a golden set holds noise, conditions, base_fidelity, real_features and base_kid")
    noise, conditions, real = tensors["noise"], tensors["conditions"], tensors["real_features"]
    figures = tensors["base_fidelity"], tensors["base_kid"]
    if any(each.dtype != np.float32 for each in (noise, real, *figures)) or conditions.dtype != np.int64:
        raise Malformed("a golden set's conditions are int64 and everything else float32")
    if noise.ndim != 4 or len(noise) < 2 or conditions.shape != noise.shape[:1]:
        raise Malformed(f"golden noise {noise.shape} does not go with conditions {conditions.shape}")
    if conditions.min() < 0 or conditions.max() >= num_conditions:
        raise Malformed(f"golden conditions have to lie within 0..{num_conditions - 1}")
    if real.ndim != 2 or len(real) < 2 or any(figure.shape != (1,) for figure in figures):
        raise Malformed("a golden set needs rows of real features and one number for each figure of the base")
    return Golden(noise, conditions, real, *(float(figure[0]) for figure in figures))
