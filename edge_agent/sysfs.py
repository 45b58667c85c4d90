"""What the kernel's thermal and power-supply classes mean: texts in, readings out.

Kernel ABI: Documentation/ABI/testing/sysfs-class-thermal and sysfs-class-power. Zones are known by their type, never
by their number; supplies by type and scope, never by name; the sign of a current means nothing across drivers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_agent.values import Quality, Reading, Telemetry

THERMAL, SUPPLY = "sys/class/thermal", "sys/class/power_supply"
ZONE_FILES = ("type", "temp")
COOLER_FILES = ("type", "cur_state")
SUPPLY_FILES = ("type", "scope", "status", "capacity", "online", "present")

_NOT_THE_CHIP = ("pmic", "batt", "charger", "iwlwifi", "wifi", "modem", "skin")  # PMIC-Die reads a fixed 100 °C
_SLOWS_THE_CHIP = ("cpufreq", "devfreq", "processor", "powerclamp")  # other coolers are fans
_COLDEST_C, _HOTTEST_C = -55.0, 150.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of one folder as last read. With quality stale they are `age_s` old; with any other but ok, none."""

    folder: str
    texts: Mapping[str, str]
    quality: Quality
    age_s: float


def telemetry_of(zones: Sequence[Snapshot], coolers: Sequence[Snapshot], supplies: Sequence[Snapshot]) -> Telemetry:
    """All that is known of the device from its kernel."""
    charge, plugged = power(supplies)
    return Telemetry(soc_temperature(zones), throttled(coolers), charge, plugged)


def soc_temperature(zones: Sequence[Snapshot]) -> Reading:
    """The hottest zone of the chip. A zone that fell silent counts with its last value, and makes the whole stale.

    A zone that answers nonsense (a rail that is switched off) is left out.
    """
    readings = [zone_temperature(zone) for zone in zones if _is_of_the_chip(zone)]
    known = [each for each in readings if each.quality in {Quality.OK, Quality.STALE}]
    if not known:
        worst = next((each.quality for each in readings if each.quality is not Quality.ABSENT), Quality.ABSENT)
        return _unknown("°C", worst, THERMAL)
    hottest = max(known, key=lambda each: each.value)
    oldest = max(known, key=lambda each: each.age_s)
    return Reading(hottest.value, "°C", oldest.age_s, oldest.quality, hottest.source)


def zone_temperature(zone: Snapshot) -> Reading:
    source = f"{zone.folder}/temp"
    if "temp" not in zone.texts:
        return _unknown("°C", zone.quality if zone.quality is not Quality.OK else Quality.ABSENT, source)
    try:
        value = parse_millidegrees(zone.texts["temp"])
    except ValueError:
        return _unknown("°C", Quality.IMPLAUSIBLE, source)
    return Reading(value, "°C", zone.age_s, zone.quality, source)


def throttled(coolers: Sequence[Snapshot]) -> Reading:
    """1 when a cooling device holds the processor back now, else 0."""
    slowing = [each for each in coolers if _word(each, "type").startswith(_SLOWS_THE_CHIP)]
    if not slowing:
        return _unknown("", Quality.ABSENT, THERMAL)
    states = [each for each in slowing if _whole(each, "cur_state") is not None]
    if not states:
        return _unknown("", Quality.IMPLAUSIBLE, THERMAL)
    worst = max(states, key=lambda each: _whole(each, "cur_state") or 0)
    return Reading(float((_whole(worst, "cur_state") or 0) > 0), "", worst.age_s, worst.quality, worst.folder)


def power(supplies: Sequence[Snapshot]) -> tuple[Reading, Reading]:
    """Charge as a share 0..1, and whether the device runs on mains (0 or 1). No battery at all means mains.

    A battery held at a limit says "Not charging" for ever: only "Discharging" means that it is used up.
    """
    unreadable = [each for each in supplies if not each.texts]
    if unreadable:
        quality = unreadable[0].quality if unreadable[0].quality is not Quality.OK else Quality.ABSENT
        return _unknown("share", quality, SUPPLY), _unknown("", quality, SUPPLY)
    batteries = [each for each in supplies if _is_system_battery(each)]
    mains = [each for each in supplies if _word(each, "type") in {"mains", "usb", "wireless"}]
    if not batteries:
        return _unknown("share", Quality.ABSENT, SUPPLY), Reading(1.0, "", 0.0, Quality.OK, "no battery")
    online = any(_whole(each, "online") == 1 and each.quality is Quality.OK for each in mains)
    fed = all(_word(each, "status") in {"charging", "full", "not charging"} for each in batteries)
    first = max(batteries, key=lambda each: each.age_s)
    plugged = Reading(float(online or fed), "", first.age_s, first.quality, f"{first.folder}/status")
    return _charge(batteries), plugged


def _charge(batteries: Sequence[Snapshot]) -> Reading:
    oldest = max(batteries, key=lambda each: each.age_s)
    source = f"{oldest.folder}/capacity"
    try:
        shares = [parse_share(each.texts["capacity"]) for each in batteries]
    except KeyError:
        return _unknown("share", Quality.ABSENT, source)
    except ValueError:
        return _unknown("share", Quality.IMPLAUSIBLE, source)
    return Reading(sum(shares) / len(shares), "share", oldest.age_s, oldest.quality, source)


def parse_millidegrees(text: str) -> float:
    """Thousandths of a degree Celsius -> degrees. Raises ValueError, also for what drivers say when they do not know.

    Jetson reports -256000 for a rail that is off, others 0 or numbers no chip survives.
    """
    value = int(text.strip()) / 1000
    if value == 0 or not _COLDEST_C < value < _HOTTEST_C:
        raise ValueError(f"no chip has {value} °C")
    return value


def parse_share(text: str) -> float:
    """Whole percent -> share 0..1. Raises ValueError."""
    value = int(text.strip())
    if not 0 <= value <= 100:
        raise ValueError(f"no battery holds {value} percent")
    return value / 100


def _is_of_the_chip(zone: Snapshot) -> bool:
    return not _word(zone, "type").startswith(_NOT_THE_CHIP)


def _is_system_battery(supply: Snapshot) -> bool:
    here = _word(supply, "scope") in {"", "system", "unknown"}  # "device": the battery of a mouse
    return _word(supply, "type") in {"battery", "ups"} and here and _whole(supply, "present") != 0


def _word(snapshot: Snapshot, file: str) -> str:
    return snapshot.texts.get(file, "").strip().lower()


def _whole(snapshot: Snapshot, file: str) -> int | None:
    try:
        return int(snapshot.texts[file])
    except (KeyError, ValueError):
        return None


def _unknown(unit: str, quality: Quality, source: str) -> Reading:
    return Reading(0.0, unit, float("inf"), quality, source)
