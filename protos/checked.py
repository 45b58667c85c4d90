"""Values of a JSON tree that are what they ought to be, or a ValueError or TypeError that says what they are not."""

import math
import re
from typing import Any

MAX_ROWS = 1 << 16


def table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a table is something else")
    return value


def rows(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        raise TypeError("a list is something else or too long")
    return value


def integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"a whole number is not within {low}..{high}")
    return value


def real(value: Any, low: float, high: float) -> float:
    if type(value) is not float or not low <= value <= high:
        raise ValueError(f"a number is not within {low}..{high}")
    return value


def number(value: Any) -> int | float:
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ValueError("a model setting is not a finite number")
    return value  # type: ignore[no-any-return]


def name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", value, re.ASCII):
        raise ValueError("a name is not plain")
    return value


def path(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.]{1,100}", value, re.ASCII):
        raise ValueError("the name of a weight is not plain")
    return value
