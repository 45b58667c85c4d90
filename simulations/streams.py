"""What each simulated device gets to see: real digits, unevenly spread, mostly more of the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array
from learning_core.samples import Batch


@dataclass(frozen=True, slots=True)
class Portion:
    """Samples that reach a device together, `after_s` seconds after its stream began."""

    after_s: float
    batch: Batch


def dirichlet_shares(
    conditions: NDArray[np.int64], devices: int, concentration: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split sample indices over devices, each condition by its own Dirichlet draw (Hsu et al. 2019, arXiv:1909.06335).

    Every device gets at least one sample of something.
    """
    owned: list[list[int]] = [[] for _ in range(devices)]
    for condition in np.unique(conditions):
        members = rng.permutation(np.flatnonzero(conditions == condition))
        cuts = (np.cumsum(rng.dirichlet(np.full(devices, concentration)))[:-1] * len(members)).astype(int)
        for device, part in enumerate(np.split(members, cuts)):
            owned[device].extend(int(index) for index in part)
    for mine in owned:
        if not mine:
            mine.append(max(owned, key=len).pop())
    return [np.array(sorted(indices), np.int64) for indices in owned]


def with_near_duplicates(batch: Batch, copies: int, jitter: float, rng: np.random.Generator) -> Batch:
    """Each sample and `copies` near-duplicates of it (Gaussian jitter, values kept in -1..1), shuffled."""
    features = np.repeat(batch.features, copies + 1, axis=0)
    noise = rng.normal(0.0, jitter, features.shape).astype(np.float32)
    noise[:: copies + 1] = 0.0  # the original itself
    order = rng.permutation(len(features))
    seen: Array = np.clip(features + noise, -1.0, 1.0).astype(np.float32)
    return Batch(seen[order], np.repeat(batch.conditions, copies + 1)[order])


def portions(
    batch: Batch,
    stages: Sequence[Sequence[int]],
    rng: np.random.Generator,
    *,
    copies: int,
    jitter: float,
    per_stage: int,
    every_s: float,
) -> list[Portion]:
    """One device's stream: the conditions of each stage in turn, `per_stage` portions a stage, `every_s` apart."""
    stream: list[Portion] = []
    for stage in stages:
        members = np.isin(batch.conditions, stage)
        seen = with_near_duplicates(Batch(batch.features[members], batch.conditions[members]), copies, jitter, rng)
        for part in np.array_split(np.arange(len(seen)), per_stage):
            stream.append(Portion(len(stream) * every_s, Batch(seen.features[part], seen.conditions[part])))
    return [portion for portion in stream if len(portion.batch)]


def drawn_devices(
    batch: Batch, devices: int, concentration: float, per_device: int, rng: np.random.Generator
) -> list[Batch]:
    """Each device's own mix of conditions (Dirichlet), then `per_device` samples of it, drawn with replacement.

    For fleets larger than the data set: devices share images, each with its own small jitter.
    """
    conditions = np.unique(batch.conditions)
    members = [np.flatnonzero(batch.conditions == condition) for condition in conditions]
    fleet = []
    for _ in range(devices):
        counts = rng.multinomial(per_device, rng.dirichlet(np.full(len(conditions), concentration)))
        chosen = np.concatenate([rng.choice(mine, count) for mine, count in zip(members, counts, strict=True)])
        jitter = rng.normal(0.0, 0.02, batch.features[chosen].shape)
        seen = np.clip(batch.features[chosen] + jitter, -1.0, 1.0).astype(np.float32)
        fleet.append(Batch(seen, batch.conditions[chosen]))
    return fleet
