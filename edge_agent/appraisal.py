"""What each variant is worth and takes on this device: made to draw, off the request path, when what is served is new.

Quality is 0..1: class fidelity on the golden set, less what the images lose in KID against the release's own base, and
times what the variant keeps of the conditions that an adapter has taught. It compares variants of one release.
"""

import logging
import math
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.ports import Engine, Facts
from edge_agent.router import Measured
from edge_agent.serving import Served, Serving
from learning_core.metrics.images import class_fidelity, kid
from learning_core.params import Array
from protos.release import Variant

log = logging.getLogger(__name__)
FACT = "appraisal"
TIMED = 9  # single samples by which a variant is timed
TAUGHT_EACH = 8  # samples of each condition beyond the golden set
TAUGHT_FROM = 0.5  # a condition counts as taught when the usual variant is right this often
CORE_SHARE = 0.02  # of one core's time, for appraisals that only another adapter asks for
Clock = Callable[[], float]


def appraise(served: Served, watts: float, clock: Clock, core_clock: Clock) -> list[Measured]:
    """Every variant that can be drawn here. `watts`: of one core; `core_clock`: core seconds of the calling thread."""
    taught = _Taught(served)
    here = [each for each in served.release.manifest.variants if each.graph in served.engines]
    return [_measured(served, variant, taught, watts, clock, core_clock) for variant in here]


class Appraiser:
    """Appraises what is served once. Saved as one fact, so that a restart does not do it again."""

    def __init__(self, serving: Serving, facts: Facts, watts: float, clock: Clock, core_clock: Clock) -> None:
        self._serving = serving
        self._facts = facts
        self._watts = watts
        self._clock = clock
        self._core_clock = core_clock
        self._done: tuple[str, str] | None = None
        self._rest_until_s = -math.inf

    def step(self) -> None:
        """Appraise what is new, if anything is; another adapter waits its turn, and until then the usual answers."""
        served = self._serving.served
        if served is None or self._done == (asked := (served.release.digest, served.adapter)):
            return
        found = self._remembered(served)
        if found is None:
            began = self._clock()
            if self._done is not None and self._done[0] == asked[0] and began < self._rest_until_s:
                return
            used = self._core_clock()
            found = appraise(served, self._watts, self._clock, self._core_clock)
            self._rest_until_s = self._clock() + (self._core_clock() - used) / CORE_SHARE
            self._facts.set_fact(FACT, {"release": asked[0], "adapter": asked[1], "variants": [_row(e) for e in found]})
            log.info("variants: %s", "; ".join(_in_words(each) for each in found))
        self._serving.measured(served, found)
        self._done = asked

    def _remembered(self, served: Served) -> list[Measured] | None:
        kept = self._facts.fact(FACT)
        if not kept or (kept["release"], kept["adapter"]) != (served.release.digest, served.adapter):
            return None
        variants = {each.name: each for each in served.release.manifest.variants}
        return [
            Measured(variants[row["name"]], row["quality"], row["latency_ms"], row["joules"])
            for row in kept["variants"]
            if row["name"] in variants
        ]


class _Taught:
    """What the usual variant makes of conditions beyond the golden set: those that an adapter has taught."""

    def __init__(self, served: Served) -> None:
        manifest = served.release.manifest
        unknown = sorted(set(range(manifest.num_conditions)) - set(manifest.known_conditions))
        asked = np.repeat(np.array(unknown if served.adapted else [], np.int64), TAUGHT_EACH)
        noise = np.random.default_rng(0).standard_normal((len(asked), *served.release.sample_shape), np.float32)
        usual = manifest.variants[0]
        right = _right(served, served.engines[usual.graph], usual, noise, asked)
        taught = [each for each in unknown if right[asked == each].size and right[asked == each].mean() >= TAUGHT_FROM]
        among = np.isin(asked, taught)
        self.noise, self.conditions = noise[among], asked[among]
        self.fidelity = float(right[among].mean()) if taught else 1.0


def _measured(
    served: Served, variant: Variant, taught: _Taught, watts: float, clock: Clock, core_clock: Clock
) -> Measured:
    engine, golden = served.engines[variant.graph], served.release.golden
    took_ms, core_s = [], []
    for row in range(TIMED):
        one = slice(row % len(golden.noise), row % len(golden.noise) + 1)
        began, used = clock(), core_clock()
        engine.generate(golden.noise[one], golden.conditions[one], variant.steps, variant.guidance)
        core_s.append(core_clock() - used)
        took_ms.append((clock() - began) * 1e3)
    quality = _quality(served, engine, variant, taught)
    return Measured(variant, quality, median(took_ms), median(core_s) * watts)


def _quality(served: Served, engine: Engine, variant: Variant, taught: _Taught) -> float:
    golden, judge = served.release.golden, served.release.judge
    samples = engine.generate(golden.noise, golden.conditions, variant.steps, variant.guidance)
    if not np.isfinite(samples).all():
        return 0.0
    logits, features = judge.look(samples)
    rise = max(0.0, kid(features, golden.real_features) - golden.base_kid)
    quality = class_fidelity(logits, golden.conditions) * math.exp(-rise)
    if len(taught.conditions):
        kept = _right(served, engine, variant, taught.noise, taught.conditions).mean()
        quality *= min(1.0, float(kept) / taught.fidelity)
    return quality if math.isfinite(quality) else 0.0


def _right(
    served: Served, engine: Engine, variant: Variant, noise: Array, conditions: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Of which samples the judge says what was asked for, [N]."""
    if not len(conditions):
        return np.zeros(0, bool)
    samples = engine.generate(noise, conditions, variant.steps, variant.guidance)
    right: NDArray[np.bool_] = served.release.judge.look(samples)[0].argmax(axis=1) == conditions
    return right


def _row(each: Measured) -> dict[str, Any]:
    name = each.variant.name
    return {"name": name, "quality": each.quality, "latency_ms": each.latency_ms, "joules": each.joules}


def _in_words(each: Measured) -> str:
    return f"{each.variant.name} {each.quality:.3f} in {each.latency_ms:.2f} ms for {each.joules * 1e3:.2f} mJ"
