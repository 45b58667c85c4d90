import numpy as np
import pytest

from learning_core.federation.privacy import clip
from learning_core.federation.screening import screen
from learning_core.updates import ModelVersion, Refusal, Update

SHAPES = {"a.lora_B": (2, 3)}


def screened(value=0.1, shape=(2, 3), base=ModelVersion(2, 5), max_lag=1, name="a.lora_B"):
    update = Update({name: np.full(shape, value, np.float32)}, 3, base)
    return screen(update, SHAPES, ModelVersion(2, 5), max_lag, clip_norm=1.0)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, None),
        ({"base": ModelVersion(2, 4)}, None),
        ({"base": ModelVersion(2, 3)}, Refusal.STALE),
        ({"base": ModelVersion(2, 3), "max_lag": 2}, None),
        ({"base": ModelVersion(2, 6)}, Refusal.STALE),  # from the future: not from us
        ({"base": ModelVersion(1, 5)}, Refusal.STALE),  # another frozen base
        ({"base": ModelVersion(3, 5)}, Refusal.STALE),
        ({"shape": (3, 2)}, Refusal.WRONG_SHAPE),
        ({"name": "b.lora_B"}, Refusal.WRONG_SHAPE),
        ({"value": np.nan}, Refusal.NOT_FINITE),
        ({"value": np.inf}, Refusal.NOT_FINITE),
        ({"value": -3e38}, Refusal.TOO_LONG),
        ({"value": 0.41}, Refusal.TOO_LONG),  # length 1.004
        ({"value": 0.0}, None),
    ],
)
def test_a_table_of_updates(case, expected):
    assert screened(**case) is expected


def test_an_empty_update_does_not_pass_for_the_adapter():
    assert screen(Update({}, 1, ModelVersion(1)), SHAPES, ModelVersion(1), 0, 1.0) is Refusal.WRONG_SHAPE


def test_what_the_device_clipped_is_never_too_long():
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 1e10):
        update = Update({"a.lora_B": (scale * rng.standard_normal((2, 3))).astype(np.float32)}, 1, ModelVersion(1))

        assert screen(clip(update, 0.7).update, SHAPES, ModelVersion(1), 0, 0.7) is None
