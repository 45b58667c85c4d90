"""One observation as a line of JSON, from any program: what it saw, of which class, and when.

{"features": [[0.1, ...], ...], "condition": 3}, or with features as base64 of little-endian float32 and their "shape";
"taken_at_s" (whole seconds since 1970) if the program knows.
"""

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from learning_core.errors import Malformed
from learning_core.params import Array

NAMES = {"features", "shape", "condition", "taken_at_s"}
MAX_WHOLE = 1 << 63
MAX_AXES = 8


@dataclass(frozen=True, slots=True)
class Observation:
    """features: any shape with at least one number, float32 and finite; `taken_at_s` None when nobody said."""

    features: Array
    condition: int
    taken_at_s: int | None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the served release has a place for."""

    shape: tuple[int, ...]
    num_conditions: int


def parse_observation(line: bytes, expected: Expected | None) -> Observation:
    """Read one line; without a release (None) its shape and condition are believed. Raises Malformed."""
    try:
        tree = json.loads(line, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {str(error)[:120]}") from error
    if not isinstance(tree, dict):
        raise Malformed("it has to be an object with features and condition")
    if odd := sorted(tree.keys() - NAMES):
        raise Malformed(f"it has no place for {odd[0][:80]!r}, only for {', '.join(sorted(NAMES))}")
    observation = Observation(_features(tree), _whole(tree, "condition"), _moment(tree))
    if not np.isfinite(observation.features).all():
        raise Malformed("every feature has to be a finite float32")
    if expected is not None:
        _check(observation, expected)
    return observation


def _check(observation: Observation, expected: Expected) -> None:
    if observation.features.shape != expected.shape:
        raise Malformed(f"features have the shape {observation.features.shape}, the release takes {expected.shape}")
    if observation.condition >= expected.num_conditions:
        raise Malformed(f"condition {observation.condition} is not within 0..{expected.num_conditions - 1}")


def _features(tree: dict[str, Any]) -> Array:
    match tree.get("features"):
        case str(text):
            return _unpacked(text, tree.get("shape"))
        case list(nested) if "shape" not in tree:
            return _nested(nested)
        case list():
            raise Malformed("nested features have their own shape; leave out shape, or give base64")
    raise Malformed("features have to be a nested list of numbers, or base64 of float32 with their shape")


def _nested(nested: list[Any]) -> Array:
    if not _holds_numbers(nested):
        raise Malformed("features have to be numbers")
    try:
        with np.errstate(over="ignore"):  # it becomes infinite, which is refused
            features = np.array(nested, np.float32)
    except (ValueError, OverflowError) as error:
        raise Malformed("features have to be equally long lists of numbers that a float32 can hold") from error
    if features.size == 0 or features.ndim > MAX_AXES:
        raise Malformed(f"features are empty, or nested more than {MAX_AXES} deep")
    return features


def _holds_numbers(nested: list[Any]) -> bool:
    """Whether there are numbers and lists only, at any depth; without recursion."""
    waiting = [nested]
    while waiting:
        for each in waiting.pop():
            if isinstance(each, list):
                waiting.append(each)
            elif type(each) not in {int, float}:
                return False
    return True


def _unpacked(text: str, shape: Any) -> Array:
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_AXES or not all(map(_is_length, shape)):
        raise Malformed(f"features in base64 need their shape, a list of 1 to {MAX_AXES} whole numbers from 1")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"features are not base64: {str(error)[:80]}") from error
    if len(data) != 4 * math.prod(shape):
        raise Malformed(f"{len(data)} bytes of features are not float32 of the shape {shape}")
    return np.frombuffer(data, "<f4").reshape(shape)


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 < value < MAX_WHOLE


def _whole(tree: dict[str, Any], name: str) -> int:
    value = tree.get(name)
    if type(value) is not int or not 0 <= value < MAX_WHOLE:
        raise Malformed(f"{name} has to be a whole number from 0")
    return value


def _moment(tree: dict[str, Any]) -> int | None:
    return None if tree.get("taken_at_s") is None else _whole(tree, "taken_at_s")


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
