"""How good a generator's images are, in a judge's eyes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from cloud_server.evaluation import Quality
from learning_core.metrics.images import class_fidelity, fid, kid, out_of_range_share, per_condition_fidelity
from learning_core.models.flow_image import FlowImage, generate
from learning_core.models.judge import Judge
from learning_core.models.weights import as_array, as_tensor
from learning_core.params import Array
from learning_core.samples import Batch

ROWS = 500  # images made at once


@dataclass(frozen=True, slots=True)
class Sampler:
    """How images are drawn: Euler steps and classifier-free guidance."""

    steps: int
    guidance: float


def balanced(conditions: Sequence[int], each: int) -> NDArray[np.int64]:
    """Every condition `each` times, [len(conditions) * each]."""
    return np.repeat(np.asarray(conditions, np.int64), each)


def noise_for(model: FlowImage, rows: int, seed: int) -> Array:
    """Standard normal noise, [rows, C, H, W]."""
    config = model.config
    shape = (rows, config.channels, config.side, config.side)
    return as_array(torch.randn(shape, generator=Generator().manual_seed(seed)))


def draw(model: FlowImage, noise: Array, conditions: NDArray[np.int64], sampler: Sampler) -> Array:
    """Images [N, C, H, W] for conditions [N] from noise of the images' shape."""
    parts = [
        as_array(
            generate(
                model,
                as_tensor(noise[start : start + ROWS]),
                torch.tensor(conditions[start : start + ROWS]),
                sampler.steps,
                sampler.guidance,
            )
        )
        for start in range(0, len(conditions), ROWS)
    ]
    return np.concatenate(parts)


def opinion(judge: Judge, images: Array) -> tuple[Array, Array]:
    """(logits [N, K], features [N, 64])."""
    with torch.no_grad():
        logits, features = judge(as_tensor(images))
    return as_array(logits), as_array(features)


def exam(
    model: FlowImage, conditions: Sequence[int], sampler: Sampler, each: int, seed: int
) -> tuple[Array, NDArray[np.int64]]:
    """`each` images of every condition and what they were asked for; the same noise for all models of one seed."""
    asked = balanced(conditions, each)
    return draw(model, noise_for(model, len(asked), seed), asked, sampler), asked


def assess(images: Array, asked: NDArray[np.int64], judge: Judge, held_out: Batch, known: Collection[int]) -> Quality:
    """Compare generated images [N, C, H, W] with what was asked for [N] and with real ones; `known` are the old."""
    logits, features = opinion(judge, images)
    real = opinion(judge, held_out.features)[1]
    old, real_old = np.isin(asked, list(known)), np.isin(held_out.conditions, list(known))
    any_new = not old.all()
    return Quality(
        fidelity=per_condition_fidelity(logits, asked),
        images_per_condition=len(asked) // len(set(asked.tolist())),
        kid_old=kid(features[old], real[real_old]),
        fid_old=fid(features[old], real[real_old]),
        kid_new=kid(features[~old], real[~real_old]) if any_new else None,
        fid_new=fid(features[~old], real[~real_old]) if any_new else None,
        out_of_range=out_of_range_share(images),
    )


def golden_set(
    model: FlowImage, judge: Judge, held_out: Batch, known: Sequence[int], sampler: Sampler, images: int, seed: int
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """What a device needs to see whether its own adapter harms known conditions: see the release's golden file."""
    asked = balanced(known, max(1, images // len(known)))
    noise = noise_for(model, len(asked), seed)
    logits, features = opinion(judge, draw(model, noise, asked, sampler))
    real = opinion(judge, held_out.features[np.isin(held_out.conditions, list(known))])[1]
    return {
        "noise": noise,
        "conditions": asked,
        "base_fidelity": np.array([class_fidelity(logits, asked)], np.float32),
        "real_features": real,
        "base_kid": np.array([kid(features, real)], np.float32),
    }
