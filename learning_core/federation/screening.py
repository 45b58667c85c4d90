"""Which updates may enter a round's sum; a refused one counts as a zero contribution, like a device that declines."""

import math

from learning_core.params import Shapes, norm, shapes_of
from learning_core.updates import ModelVersion, Refusal, Update

_TOLERANCE = 1 + 1e-6  # two machines may sum squares in another order; `privacy.clip` removes the rest


def screen(update: Update, shapes: Shapes, current: ModelVersion, max_lag: int, clip_norm: float) -> Refusal | None:
    """Why this update must not count, or None. Stale: made for another base, or over `max_lag` steps ago."""
    lag = current.step - update.base_version.step
    if update.base_version.release != current.release or not 0 <= lag <= max_lag:
        return Refusal.STALE
    if shapes_of(update.delta) != {name: tuple(shape) for name, shape in shapes.items()}:
        return Refusal.WRONG_SHAPE
    length = norm(update.delta)
    if not math.isfinite(length):
        return Refusal.NOT_FINITE
    if length > clip_norm * _TOLERANCE:
        return Refusal.TOO_LONG
    return None
