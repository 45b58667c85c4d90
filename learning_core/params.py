"""Named weights as a value: the few operations on them that everything else is built from."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from learning_core.errors import Malformed

Array = NDArray[np.float32]
Params = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in params.items()}


def check_exact(params: Params, expected: Shapes, what: str) -> None:
    """Raises Malformed unless names and shapes are exactly the expected ones."""
    given = shapes_of(params)
    if given != dict(expected):
        odd = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
        raise Malformed(f"this {what} belongs to another model: it differs at {', '.join(odd[:4])}")


def zeros(shapes: Shapes) -> dict[str, Array]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def add(left: Params, right: Params) -> dict[str, Array]:
    return {name: left[name] + right[name] for name in _same_names(left, right)}


def subtract(left: Params, right: Params) -> dict[str, Array]:
    return {name: left[name] - right[name] for name in _same_names(left, right)}


def scale(params: Params, factor: float) -> dict[str, Array]:
    return {name: (value * np.float32(factor)).astype(np.float32) for name, value in params.items()}


def norm(params: Params) -> float:
    """Euclidean length over all tensors together, summed in float64."""
    return float(np.sqrt(sum(float(np.sum(np.square(value, dtype=np.float64))) for value in params.values())))


def is_finite(params: Params) -> bool:
    return all(bool(np.isfinite(value).all()) for value in params.values())


def num_bytes(params: Params) -> int:
    return sum(value.nbytes for value in params.values())


def digest(params: Params) -> str:
    """sha256 over names, shapes and bytes, in name order: equal exactly when the weights are equal."""
    state = hashlib.sha256()
    for name in sorted(params):
        value = np.asarray(params[name], dtype="<f4", order="C")
        state.update(f"{name}{value.shape}".encode())
        state.update(value.tobytes())
    return state.hexdigest()


def _same_names(left: Params, right: Params) -> Iterable[str]:
    if left.keys() != right.keys():
        raise ValueError(f"parameters differ in names: {sorted(left.keys() ^ right.keys())[:4]}")
    return left.keys()
