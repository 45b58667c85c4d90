"""How warm a chip gets by learning: a die that follows the load within seconds on a body that follows within minutes.

Two thermal masses in a row, heated at the first, answer a step of power with two exponentials and nothing else. Both
are kept as seen from the die, in kelvin for one core that learns, since temperatures can be measured everywhere and
watts cannot; `network` turns them into resistances and capacities where the watts are known.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_GRID = tuple(0.25 * 1.2**n for n in range(53))  # 0.25 s to about an hour


@dataclass(frozen=True, slots=True)
class ThermalModel:
    """One core that learns warms the die by `die_k` within `die_s`, and all of it by `body_k` within `body_s`.

    `rest_c`: where the chip settles without it. `margin_c`: how far off a forecast may be, from the fit's residuals.
    """

    rest_c: float
    die_k: float
    die_s: float
    body_k: float
    body_s: float
    margin_c: float = 0.0

    def __post_init__(self) -> None:
        numbers = [getattr(self, each.name) for each in fields(self)]
        sound = all(isinstance(each, float) and math.isfinite(each) for each in numbers)
        if not (sound and self.die_k > 0 and self.body_k > 0 and 0 < self.die_s < self.body_s and self.margin_c >= 0):
            raise ValueError("a chip that learns gets warmer, its die sooner than its body")


@dataclass(frozen=True, slots=True)
class Rise:
    """How far die and body are above rest now, in kelvin."""

    die_k: float = 0.0
    body_k: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is still to come once one core learns from now on: kelvin of the die and of the body."""

    model: ThermalModel
    die_k: float
    body_k: float


@dataclass(frozen=True, slots=True)
class Network:
    """The same as resistances in K/W and capacities in J/K: die - body - air (a Cauer ladder)."""

    die_to_body: float
    body_to_air: float
    die_capacity: float
    body_capacity: float


def advance(rise: Rise, model: ThermalModel, load: float, dt_s: float) -> Rise:
    """The rise `dt_s` later, with `load` cores learning in between. Exact for a constant load."""
    die, body = math.exp(-dt_s / model.die_s), math.exp(-dt_s / model.body_s)
    return Rise(
        load * model.die_k + (rise.die_k - load * model.die_k) * die,
        load * model.body_k + (rise.body_k - load * model.body_k) * body,
    )


def simulate(model: ThermalModel, loads: Iterator[tuple[float, float]], start: Rise) -> Iterator[float]:
    """The temperature after each of the pieces (seconds, cores that learn), in degrees Celsius."""
    rise = start
    for dt_s, load in loads:
        rise = advance(rise, model, load, dt_s)
        yield model.rest_c + rise.die_k + rise.body_k


def temperature_in(outlook: Outlook, temp_c: float, after_s: float) -> float:
    """What the chip will have after so many seconds of learning, having `temp_c` now."""
    model = outlook.model
    die, body = -math.expm1(-after_s / model.die_s), -math.expm1(-after_s / model.body_s)
    return temp_c + outlook.die_k * die + outlook.body_k * body


def seconds_until(limit_c: float, temp_c: float, outlook: Outlook) -> float:
    """How long one core may learn before the chip has `limit_c` less the margin; infinite if it never has."""
    top_c, before_s = limit_c - outlook.model.margin_c, 0.0
    if temp_c >= top_c:
        return 0.0
    for after_s in _GRID:
        if temperature_in(outlook, temp_c, after_s) >= top_c:
            return _crossing(top_c, temp_c, outlook, before_s, after_s)
        before_s = after_s
    return math.inf


def network(model: ThermalModel, watts: float) -> Network:
    """The ladder that answers in the same way, when one core that learns draws so many watts.

    From the impedance as a sum of two terms (Foster) to continued fractions (Cauer); any circuit theory text has it.
    """
    die, body = model.die_k / watts, model.body_k / watts
    total, cross = die + body, die * model.body_s + body * model.die_s
    die_capacity = model.die_s * model.body_s / cross
    rest_s = model.die_s + model.body_s - die_capacity * total
    die_to_body = cross / rest_s
    body_to_air = total - die_to_body
    return Network(die_to_body, body_to_air, die_capacity, rest_s / body_to_air)


def encode_model(model: ThermalModel) -> dict[str, float]:
    return asdict(model)


def decode_model(tree: Any) -> ThermalModel | None:
    """Inverse of `encode_model`; None for what is no model, as a state folder of another day may hold."""
    if not isinstance(tree, Mapping):
        return None
    try:
        return ThermalModel(**tree)
    except (TypeError, ValueError):
        return None


def _crossing(top_c: float, temp_c: float, outlook: Outlook, below_s: float, above_s: float) -> float:
    for _ in range(30):
        middle_s = (below_s + above_s) / 2
        if temperature_in(outlook, temp_c, middle_s) >= top_c:
            above_s = middle_s
        else:
            below_s = middle_s
    return above_s
