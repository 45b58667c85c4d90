"""What feeds the device, from the kernel's power-supply class.

Kernel ABI: Documentation/ABI/testing/sysfs-class-power. Supplies are known by type and scope, never by name. The sign
of a current means nothing across drivers, so the direction comes from the status alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.sensors.snapshot import Snapshot, known, unknown, worst
from edge_agent.values import Quality, Reading

SUPPLY = "sys/class/power_supply"
SUPPLY_FILES = (
    *("type", "scope", "status", "capacity", "online", "present", "temp"),
    *("current_now", "voltage_now", "power_now", "energy_full", "charge_full"),
)

_MOST_W = 500.0


@dataclass(frozen=True, slots=True)
class Power:
    """charge: share 0..1; plugged: 1 unless the batteries are being used up; power_w: what they give, >= 0."""

    charge: Reading
    plugged: Reading
    battery_temp_c: Reading
    power_w: Reading


def parse_share(text: str) -> float:
    """Whole percent -> share 0..1. Raises ValueError."""
    value = int(text.strip())
    if not 0 <= value <= 100:
        raise ValueError(f"no battery holds {value} percent")
    return value / 100


def battery_degrees(value: float) -> float:
    """The same, or ValueError for what no battery survives and for the zero of a gauge that does not know."""
    if value == 0 or not -40 < value < 100:
        raise ValueError(f"no battery has {value} °C")
    return value


def watts(volts: float, amperes: float) -> float:
    """The magnitude of the power. Raises ValueError for what no battery of a device gives."""
    value = abs(volts * amperes)
    if not value < _MOST_W:
        raise ValueError(f"no battery of a device gives {value} W")
    return value


def power(supplies: Sequence[Snapshot]) -> Power:
    """What is known of batteries and mains together. No battery at all means mains.

    A battery held at a limit says "Not charging" for ever: only "Discharging" means that it is used up.
    """
    unreadable = [each for each in supplies if not each.texts]
    if unreadable:
        return Power(*(unreadable[0].lacks(unit, "type") for unit in ("share", "", "°C", "W")))
    batteries = [each for each in supplies if _is_system_battery(each)]
    mains = [each for each in supplies if each.word("type").startswith(("mains", "usb", "wireless"))]
    if not batteries:
        charge, warmth, drawn = (unknown(unit, Quality.ABSENT, SUPPLY) for unit in ("share", "°C", "W"))
        return Power(charge, Reading(1.0, "", 0.0, Quality.OK, "no battery"), warmth, drawn)
    online = any(each.whole("online") == 1 and each.quality is not Quality.STALE for each in mains)
    fed = all(each.word("status") in {"charging", "full", "not charging"} for each in batteries)
    oldest = max(batteries, key=lambda each: each.age_s)
    plugged = oldest.reading(float(online or fed), "", "status")
    warm = [_warmth(each) for each in batteries]
    warmest = max(known(warm), key=lambda each: each.value, default=worst(warm, "°C", SUPPLY))
    return Power(_charge(batteries), plugged, warmest, _drawn(batteries))


def _charge(batteries: Sequence[Snapshot]) -> Reading:
    """All batteries as one, each counting as much as it holds where the kernel tells, else all alike."""
    shares = [_share(each) for each in batteries]
    if len(known(shares)) < len(shares):
        return worst(shares, "share", SUPPLY)
    sizes = next((sizes for unit in ("energy_full", "charge_full") if (sizes := _sizes(batteries, unit))), None)
    weights = sizes or [1] * len(batteries)
    whole = sum(share.value * weight for share, weight in zip(shares, weights, strict=True)) / sum(weights)
    return max(batteries, key=lambda each: each.age_s).reading(whole, "share", "capacity")


def _share(battery: Snapshot) -> Reading:
    try:
        return battery.reading(parse_share(battery.texts["capacity"]), "share", "capacity")
    except (KeyError, ValueError):
        return battery.lacks("share", "capacity")


def _sizes(batteries: Sequence[Snapshot], file: str) -> list[int] | None:
    sizes = [each.whole(file) or 0 for each in batteries]
    return sizes if all(size > 0 for size in sizes) else None


def _warmth(battery: Snapshot) -> Reading:
    tenths = battery.whole("temp")
    try:
        return battery.reading(battery_degrees(tenths / 10), "°C", "temp") if tenths else battery.lacks("°C", "temp")
    except (ValueError, OverflowError):
        return battery.lacks("°C", "temp")


def _drawn(batteries: Sequence[Snapshot]) -> Reading:
    """What the batteries that are being used up give; nothing while they are charged, when the current is theirs."""
    giving = [_given(each) for each in batteries if each.word("status") == "discharging"]
    if not giving or len(known(giving)) < len(giving):
        return worst(giving, "W", f"{SUPPLY}/*/current_now while discharging")
    oldest = max(giving, key=lambda each: each.age_s)
    total_w = sum(each.value for each in giving)
    return Reading(total_w, "W", oldest.age_s, oldest.quality, oldest.source)


def _given(battery: Snapshot) -> Reading:
    microwatts, microvolts = battery.whole("power_now"), battery.whole("voltage_now")
    microamperes = battery.whole("current_now")
    try:
        if microvolts is not None and microamperes is not None:
            return battery.reading(watts(microvolts / 1e6, microamperes / 1e6), "W", "current_now")
        if microwatts is not None:
            return battery.reading(watts(1.0, microwatts / 1e6), "W", "power_now")
    except (ValueError, OverflowError):
        return battery.lacks("W", "current_now" if microwatts is None else "power_now")
    return battery.lacks("W", "current_now")


def _is_system_battery(supply: Snapshot) -> bool:
    here = supply.word("scope") in {"", "system", "unknown"}  # "device": the battery of a mouse
    return supply.word("type") in {"battery", "ups"} and here and supply.whole("present") != 0
