"""A release's golden set: what is in its file, and what a student does with it on this device."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.ports import Engine, Judge, Release
from edge_agent.values import Golden
from learning_core.errors import Malformed
from learning_core.metrics.golden import (
    COVERED,
    FEWEST_HEALTHY,
    HARMS,
    NOT_FINITE,
    Figures,
    Harms,
    bounds,
    figures,
    nearness,
    resolution,
    tolerance_factor,
)
from learning_core.samples import Batch
from protos.release import Manifest, Variant

PAIRS = 8  # single samples by which two engines are timed
LEAST_SLOWDOWN = 1.1  # what is less cannot be told from a device's own ups and downs
SHORTEST_S = 1e-9
DRAWN = 40  # samples of what was learned, to see whether they repeat it
LOOKED_AT = 256  # of the samples that were learned from, the newest
SEED = 0


@dataclass(frozen=True, slots=True)
class Base:
    """What a release does on this device without any adapter, by variant, and how far an adapter may go from it."""

    figures: Mapping[str, Figures]
    bounds: Mapping[str, Harms]


@dataclass(frozen=True, slots=True)
class Pace:
    """Time for a sample over that of the student without an adapter; `bound`: what that student reaches over itself."""

    slowdown: float
    bound: float


def golden_set(tensors: Mapping[str, Any], manifest: Manifest) -> Golden:
    """What a release's golden file holds. Raises Malformed."""
    num_conditions, settings = manifest.num_conditions, len(local(manifest))
    names = {"noise", "conditions", "real_features", "teacher", "healthy", "base_fidelity", "base_kid"}
    if tensors.keys() != names:
        raise Malformed(f"a golden set holds {', '.join(sorted(names))}")
    noise, conditions, real = tensors["noise"], tensors["conditions"], tensors["real_features"]
    teacher, healthy, own = tensors["teacher"], tensors["healthy"], (tensors["base_fidelity"], tensors["base_kid"])
    reals = (noise, real, teacher, healthy, *own)
    if any(each.dtype != np.float32 for each in reals) or conditions.dtype != np.int64:
        raise Malformed("a golden set's conditions are int64 and everything else float32")
    if noise.ndim != 4 or len(noise) < 2 or conditions.shape != noise.shape[:1]:
        raise Malformed(f"golden noise {noise.shape} does not go with conditions {conditions.shape}")
    if conditions.min() < 0 or conditions.max() >= num_conditions:
        raise Malformed(f"golden conditions have to lie within 0..{num_conditions - 1}")
    if real.ndim != 2 or len(real) < 2 or any(figure.shape != (1,) for figure in own):
        raise Malformed("a golden set needs rows of real features and one number for each figure of the base")
    if teacher.shape != noise.shape:
        raise Malformed(f"the teacher's samples {teacher.shape} do not go with golden noise {noise.shape}")
    if healthy.ndim != 3 or healthy.shape[::2] != (settings, len(HARMS)) or healthy.shape[1] < FEWEST_HEALTHY:
        wanted = f"{settings} settings, of at least {FEWEST_HEALTHY} updates, {len(HARMS)} figures"
        raise Malformed(f"healthy harms are those of {wanted}, not {healthy.shape}")
    if not all(np.isfinite(each).all() for each in reals):
        raise Malformed("a golden set's numbers have to be finite")
    return Golden(noise, conditions, real, teacher, healthy, float(own[0][0]), float(own[1][0]))


def measure(engine: Engine, judge: Judge, golden: Golden, steps: int, guidance: float) -> Figures:
    """Draw the golden set with this student and look at it."""
    samples = engine.generate(golden.noise, golden.conditions, steps, guidance)
    if not np.isfinite(samples).all():
        return NOT_FINITE
    teacher = judge.look(golden.teacher)[1]
    return figures(samples, *judge.look(samples), golden.conditions, golden.real_features, teacher)


def local(manifest: Manifest) -> tuple[Variant, ...]:
    """The settings in which this device itself may answer, the usual one first."""
    return tuple(each for each in manifest.variants if not each.is_remote)


def measure_all(engines: Mapping[str, Engine], release: Release) -> dict[str, Figures]:
    """The same in every setting in which this device itself may answer; `engines` by graph."""
    return {
        each.name: measure(engines[each.graph], release.judge, release.golden, each.steps, each.guidance)
        for each in local(release.manifest)
    }


def base_of(release: Release) -> Base:
    """Measured here: an integer graph has figures of its own on every kind of processor."""
    golden = release.golden
    finest = resolution(len(golden.noise), golden.noise.size, golden.real_features)
    settings, _, columns = golden.healthy.shape
    most = [bounds(rows, finest, settings * columns) for rows in golden.healthy.astype(np.float64)]
    names = [each.name for each in local(release.manifest)]
    return Base(measure_all(release.engines, release), dict(zip(names, most, strict=True)))


def nearness_of(engine: Engine, release: Release, samples: Batch) -> float | None:
    """Whether a student repeats what it learned from: as many samples again of the same conditions, and how near."""
    kept = samples.features[-LOOKED_AT:]
    asked = samples.conditions[-DRAWN:]
    manifest = release.manifest
    noise = np.random.default_rng(SEED).standard_normal((len(asked), *release.sample_shape), np.float32)
    drawn = engine.generate(noise, asked, manifest.steps, manifest.guidance)
    if not np.isfinite(drawn).all():
        return None
    return nearness(release.judge.look(drawn)[1], release.judge.look(kept)[1])


def pace_of(engine: Engine, release: Release, clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Time an adapted student and the bare one in turns, so that a device's ups and downs meet both."""
    manifest, golden = release.manifest, release.golden

    def took_s(each: Engine, at: int) -> float:
        began = clock()
        each.generate(golden.noise[at : at + 1], golden.conditions[at : at + 1], manifest.steps, manifest.guidance)
        return max(clock() - began, SHORTEST_S)

    places = [at % len(golden.noise) for at in range(PAIRS)]
    rows = [(took_s(release.engine, at), took_s(engine, at), took_s(release.engine, at)) for at in places]
    logs = np.log(np.array(rows))
    slower, ups_and_downs = logs[:, 1] - (logs[:, 0] + logs[:, 2]) / 2, logs[:, 2] - logs[:, 0]
    bound = tolerance_factor(PAIRS, COVERED) * float(ups_and_downs.std(ddof=1))
    return Pace(math.exp(float(np.median(slower))), max(math.exp(bound), LEAST_SLOWDOWN))
