"""One observation as a line of JSON, from any program: what it saw, of which class if it knows, and when.

{"features": [[0.1, ...], ...], "condition": 3}, or with features as base64 of little-endian float32 and their "shape",
or {"text": "..."} in place of features. If the program knows: "taken_at_s" (whole seconds since 1970), "span" of an
image's floats ("-1..1", "0..1" or "0..255"), and "id", by which the agent knows an observation that is sent again.
"""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_agent.normalise.pictures import Span
from edge_agent.normalise.wanted import Conversions, rows_of, wanted_of
from edge_agent.proposing import UNKNOWN
from learning_core.errors import Malformed
from learning_core.params import Array

NAMES = {"features", "shape", "condition", "taken_at_s", "text", "span", "id"}
MAX_WHOLE = 1 << 63
MAX_AXES = 8
MAX_ID = 256  # characters


@dataclass(frozen=True, slots=True)
class Observation:
    """raw: numbers of any shape, float32 or uint8, at least one and finite; or a text. `condition` -1 and `id` 0 where
    nobody said, `taken_at_s` and `span` None.
    """

    raw: NDArray[Any] | str
    condition: int = UNKNOWN
    taken_at_s: int | None = None
    span: Span | None = None
    id: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """What the served release has a place for, and what the settings allow to make things fit."""

    shape: tuple[int, ...]
    num_conditions: int
    conversions: Conversions = field(default_factory=Conversions)


def parse_observation(line: bytes, expected: Expected | None) -> Observation:
    """Read one line; without a release (None) its shape and condition are believed. Raises Malformed."""
    try:
        tree = json.loads(line, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {str(error)[:120]}") from error
    return observation_of(tree, expected)


def observation_of(tree: Any, expected: Expected | None) -> Observation:
    """What a line's JSON says. Raises Malformed."""
    if not isinstance(tree, dict):
        raise Malformed("it has to be an object with features and, if it is known, condition")
    if odd := sorted(tree.keys() - NAMES):
        raise Malformed(f"it has no place for {odd[0][:80]!r}, only for {', '.join(sorted(NAMES))}")
    condition = UNKNOWN if tree.get("condition") is None else _whole(tree, "condition")
    observation = Observation(_raw(tree), condition, _moment(tree), _span(tree), _id(tree))
    check(observation, expected)
    return observation


def observation_from(item: Any, expected: Expected | None) -> Observation:
    """What a person's own program gives: an array or a text, a pair of one with its class, or all by name as in JSON.

    Arrays may be of any library; bytes (uint8) stay, other numbers become float32. Raises Malformed.
    """
    match item:
        case (features, condition):
            tree: dict[str, Any] = {"features": features, "condition": condition}
        case dict():
            tree = dict(item)
        case _:
            tree = {"features": item}
    features = tree.get("features")
    if isinstance(features, str):
        return observation_of({"text": features, **{k: v for k, v in tree.items() if k != "features"}}, expected)
    if "text" in tree or isinstance(features, list) or features is None:
        return observation_of(tree, expected)
    named = observation_of(
        {**tree, "features": [0], "condition": _plain(tree.get("condition")), "span": tree.get("span")}, None
    )
    observation = replace(named, raw=_array(features))
    check(observation, expected)
    return observation


def check(observation: Observation, expected: Expected | None) -> None:
    """Whether the release could take it. Raises Malformed."""
    raw = observation.raw
    if not isinstance(raw, str) and not np.isfinite(raw).all():
        raise Malformed("every feature has to be a finite float32")
    if expected is None:
        return
    rows_of(raw, wanted_of(expected.shape, text=isinstance(raw, str)), expected.conversions, observation.span)
    if observation.condition >= expected.num_conditions:
        raise Malformed(f"condition {observation.condition} is not within 0..{expected.num_conditions - 1}")


def id_of(name: str) -> int:
    """A name as the number it is remembered by: 63 bits of its sha256, never 0."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1 or 1


def _plain(value: Any) -> Any:
    """A whole number of another library as ours."""
    return int(value) if isinstance(value, np.integer) else value


def _array(features: Any) -> NDArray[Any]:
    try:
        array = np.asarray(features)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Malformed(f"features are no array: {str(error)[:120]}") from error
    if array.dtype.kind not in "biuf":
        raise Malformed(f"features have to be numbers, not {array.dtype}")
    if array.size == 0 or array.ndim > MAX_AXES:
        raise Malformed(f"features are empty, or of more than {MAX_AXES} axes")
    with np.errstate(over="ignore"):  # it becomes infinite, which is refused
        return array if array.dtype == np.uint8 else array.astype(np.float32)


def _raw(tree: Mapping[str, Any]) -> Array | str:
    match tree:
        case {"text": str(text)} if tree.keys().isdisjoint({"features", "shape", "span"}):
            if any("\ud800" <= each <= "\udfff" for each in text):
                raise Malformed("the text is not Unicode: it holds half a character")
            return text
        case {"text": _}:
            raise Malformed("a text is a string, and has neither features, shape nor span beside it")
    return _features(tree)


def _features(tree: Mapping[str, Any]) -> Array:
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


def _whole(tree: Mapping[str, Any], name: str) -> int:
    value = tree.get(name)
    if type(value) is not int or not 0 <= value < MAX_WHOLE:
        raise Malformed(f"{name} has to be a whole number from 0")
    return value


def _moment(tree: Mapping[str, Any]) -> int | None:
    return None if tree.get("taken_at_s") is None else _whole(tree, "taken_at_s")


def _span(tree: Mapping[str, Any]) -> Span | None:
    value = tree.get("span")
    if value is None:
        return None
    if value not in list(Span):
        raise Malformed(f"span has to be one of {', '.join(Span)}")
    return Span(value)


def _id(tree: Mapping[str, Any]) -> int:
    match tree.get("id"):
        case None:
            return 0
        case str(name) if 0 < len(name) <= MAX_ID:
            return id_of(name)
    raise Malformed(f"id has to be a string of 1 to {MAX_ID} characters")


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
