"""How a frozen base and what the fleet taught its adapter become one new student.

A pool of generated images takes the place of data the cloud does not have: the teacher speaks for the conditions it
was trained on, the base for the others it knows, the merged student for the new ones. Plain flow matching on such a
pool is the cheapest distillation that works, and it starts from the merged weights.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_server.measurement import Sampler, balanced, draw, noise_for
from cloud_server.ports import Report
from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of
from learning_core.models.lora import build_student, merge, write_adapter
from learning_core.models.pretraining import pretrain
from learning_core.params import Array, Params
from learning_core.samples import Batch


@dataclass(frozen=True, slots=True)
class Base:
    """What a release is made of."""

    config: FlowImageConfig
    weights: Params
    start: Params  # the frozen A factors
    alpha: float
    known: tuple[int, ...]


def merged(base: Base, adapter: Params) -> dict[str, Array]:
    """Weights of the base with the shared adapter folded in."""
    student = build_student(base.config, base.weights, base.start, base.alpha, base.known)
    write_adapter(student, adapter)
    return merge(student)


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that generates some of the pool."""

    model: FlowImage
    conditions: tuple[int, ...]
    sampler: Sampler


def speakers(
    base: Base,
    base_sampler: Sampler,
    teacher: FlowImage,
    teacher_known: Collection[int],
    merged_weights: Params,
    teacher_sampler: Sampler,
    new_sampler: Sampler,
) -> list[Speaker]:
    """Who generates which conditions, each only once. `base_sampler` is the one the base is served with.

    What devices taught is drawn with more guidance: their classes are the least certain, and it makes them clearer.
    """
    plain, new = flow_image_of(base.config, base.weights), flow_image_of(base.config, merged_weights)
    taught, known = set(teacher_known), set(base.known)
    unknown = set(range(base.config.num_conditions)) - known - taught
    parts = [
        Speaker(teacher, tuple(sorted(taught)), teacher_sampler),
        Speaker(plain, tuple(sorted(known - taught)), base_sampler),
        Speaker(new, tuple(sorted(unknown)), new_sampler),
    ]
    return [part for part in parts if part.conditions]


def spoken(parts: Sequence[Speaker], noise: Array, asked: NDArray[np.int64]) -> Array:
    """Images [N, C, H, W] for conditions [N] from noise of that shape, each by who speaks for its condition."""
    images = np.empty_like(noise)
    for part in parts:
        rows = np.isin(asked, part.conditions)
        if rows.any():
            images[rows] = draw(part.model, noise[rows], asked[rows], part.sampler)
    return images


def pool(parts: Sequence[Speaker], size: int, seed: int) -> Batch:
    """About `size` generated images, equally many of each condition, values cut to -1..1."""
    each = max(1, size // sum(len(part.conditions) for part in parts))
    images, labels = [], []
    for place, part in enumerate(parts):
        asked = balanced(part.conditions, each)
        noise = noise_for(part.model, len(asked), seed + place)
        images.append(np.clip(draw(part.model, noise, asked, part.sampler), -1.0, 1.0))
        labels.append(asked)
    return Batch(np.concatenate(images).astype(np.float32), np.concatenate(labels))


def distil(
    config: FlowImageConfig, weights: Params, samples: Batch, steps: int, rate: float, seed: int, report: Report
) -> FlowImage:
    """Train a student on the pool, from `weights` on."""
    student = flow_image_of(config, weights)
    pretrain(student, samples, steps, rate, seed, on_step=lambda step, _: report("distilled", step + 1, steps))
    return student
