"""New data enters in stages: easy before hard, tones before structure, gently at first.

Curriculum learning (Bengio et al. 2009) with a pacing function of equal steps (Hacohen and Weinshall 2019,
arXiv:1904.03626); warm-up as in Goyal et al. 2017 (arXiv:1706.02677). What is difficult is for the caller to score,
for example by the served model's loss.

Nothing uses it unless it is asked to: on digits whose classes arrive in turn, each order cost about a point of accuracy
and a warm-up changed nothing (`dewfall bench continual --part digits`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Curriculum:
    """`stages` of `stage_steps` each; a stage begins at `gentle` of the full learning rate and ends at all of it.

    `warm_up` steps follow a swap of the adapter or the base, whose optimiser's moments are not yet worth trusting.
    One stage, gentle 1 and no warm-up is no curriculum.
    """

    stages: int = 3
    stage_steps: int = 20
    gentle: float = 0.5
    warm_up: int = 5

    def __post_init__(self) -> None:
        if self.stages < 1 or self.stage_steps < 1 or not 0 < self.gentle <= 1 or self.warm_up < 0:
            raise ValueError(f"not a curriculum: {self}")


def stage_at(step: int, curriculum: Curriculum) -> int:
    """0 up to stages - 1, where it stays."""
    return min(step // curriculum.stage_steps, curriculum.stages - 1)


def allowed(difficulty: Array, stage: int, curriculum: Curriculum) -> NDArray[np.int64]:
    """Indices of the samples that take part in a stage, easiest first. difficulty: [N], higher is harder.

    The easiest (stage + 1) / stages of them, rounded up, so that there is something to learn from the start.
    """
    num = -(-len(difficulty) * (stage + 1) // curriculum.stages)
    return np.argsort(difficulty, kind="stable")[:num].astype(np.int64)


def rate_factor(step: int, steps_since_swap: int, curriculum: Curriculum) -> float:
    """What to multiply the learning rate for new data with, above 0 and at most 1. Both count from 0.

    Within a stage it rises in a line from `gentle` to 1; after the last stage it is 1. Warm-up multiplies on top.
    """
    into = step - stage_at(step, curriculum) * curriculum.stage_steps
    eased = curriculum.gentle + (1 - curriculum.gentle) * min(1.0, into / curriculum.stage_steps)
    warm = min(1.0, (steps_since_swap + 1) / (curriculum.warm_up + 1))
    return eased * warm


def coarse(images: Array, stage: int, curriculum: Curriculum) -> Array:
    """Images as a stage shows them: tones and style first, structure last. [B, C, H, W] -> the same shape.

    Stage s keeps frequencies up to (s + 1) / stages of the highest; the mean tone is in all, everything in the last.
    """
    if stage >= curriculum.stages - 1:
        return images
    height, width = images.shape[-2:]
    frequency = np.maximum(np.abs(np.fft.fftfreq(height))[:, None], np.fft.rfftfreq(width))
    kept = frequency <= 0.5 * (stage + 1) / curriculum.stages
    return np.fft.irfft2(np.fft.rfft2(images) * kept, s=(height, width)).astype(np.float32)
