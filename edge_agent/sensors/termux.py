"""An Android phone's battery, from the program `termux-battery-status`; Android shows Termux no thermal headroom.

The fields are those of Termux:API's BatteryStatusAPI; any of them may be missing. Units of the current differ between
phones and Termux guesses them, so that its power is only a magnitude.
"""

import json
from collections.abc import Mapping
from typing import Any

from edge_agent.sensors.snapshot import Snapshot
from edge_agent.sensors.supply import Power, battery_degrees, parse_share, watts
from edge_agent.values import Reading

BATTERY_STATUS = ("data/data/com.termux/files/usr/bin/termux-battery-status",)

_FED = {"CHARGING", "FULL", "NOT_CHARGING"}


def parse_battery(text: str) -> Mapping[str, float]:
    """What the program says, under the names of `Power`; what it does not say is missing. Raises ValueError."""
    try:
        tree = json.loads(text)
    except RecursionError as error:
        raise ValueError("this is no battery status") from error
    if not isinstance(tree, dict):
        raise ValueError("this is no battery status")
    said: dict[str, float] = {}
    if (percentage := _number(tree, "percentage")) is not None:
        said["charge"] = parse_share(f"{percentage:.0f}")
    plug, status = str(tree.get("plugged", "")), str(tree.get("status", ""))
    if plug or status:
        said["plugged"] = float(plug.startswith("PLUGGED") or status in _FED)
    if (warmth := _number(tree, "temperature")) is not None:
        said["battery_temp_c"] = battery_degrees(warmth)
    millivolts, microamperes = _number(tree, "voltage"), _number(tree, "current")
    if millivolts is not None and microamperes is not None and status == "DISCHARGING":
        said["power_w"] = watts(millivolts / 1e3, microamperes / 1e6)
    return said


def phone_power(program: Snapshot) -> Power:
    """What is known of the phone's battery."""
    try:
        said = parse_battery(program.texts["output"])
    except (KeyError, ValueError):
        return Power(*(program.lacks(unit, "output") for unit in ("share", "", "°C", "W")))
    silent = Snapshot(program.place, {}, program.quality, program.age_s)

    def reading(name: str, unit: str) -> Reading:
        return program.reading(said[name], unit, "output") if name in said else silent.lacks(unit, name)

    return Power(
        charge=reading("charge", "share"),
        plugged=reading("plugged", ""),
        battery_temp_c=reading("battery_temp_c", "°C"),
        power_w=reading("power_w", "W"),
    )


def _number(tree: Mapping[str, Any], name: str) -> float | None:
    """A number, or None where there is none. Raises ValueError when it is too large to be one."""
    value = tree.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is too large") from error
