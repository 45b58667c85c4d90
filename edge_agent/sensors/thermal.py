"""How warm the chip is, and at which temperature its kernel would slow or stop it.

Kernel ABI: Documentation/ABI/testing/sysfs-class-thermal and Documentation/hwmon/sysfs-interface.rst. Zones are known
by their type and monitoring chips by their name, never by their number; trips are read from the zone they belong to.
"""

import re
from collections.abc import Sequence

from edge_agent.sensors.snapshot import Snapshot, known, parse_whole, unknown, worst
from edge_agent.values import Quality, Reading

THERMAL = "sys/class/thermal"
CHIP_SENSORS = ("coretemp", "k10temp", "zenpower")  # processors that x86 shows as monitoring chips, not as zones
ZONE_FILE = re.compile(r"type|temp|trip_point_\d+_(type|temp)")
CHIP_FILE = re.compile(r"name|temp\d+_(input|crit)")

_NOT_THE_CHIP = ("pmic", "batt", "charger", "iwlwifi", "wifi", "modem", "skin")  # PMIC-Die reads a fixed 100 °C
_SLOWS_OR_STOPS = {"passive", "hot", "critical"}  # "active" starts a fan
_COLDEST_C, _HOTTEST_C = -55.0, 150.0
_COOLEST_TRIP_C = 30.0  # below lie the marks of trips that are switched off


def parse_millidegrees(text: str) -> float:
    """Thousandths of a degree Celsius -> degrees. Raises ValueError, also for what drivers say when they do not know.

    Jetson reports -256000 for a rail that is off, others 0 or numbers no chip survives.
    """
    value = parse_whole(text) / 1000
    if value == 0 or not _COLDEST_C < value < _HOTTEST_C:
        raise ValueError(f"no chip has {value} °C")
    return value


def heat(zones: Sequence[Snapshot], chips: Sequence[Snapshot]) -> tuple[Reading, Reading]:
    """The hottest spot, and the lowest passive, hot or critical trip of the hottest zone that has one.

    A zone that fell silent counts with its last value, and makes the whole stale. A zone that answers nonsense (a rail
    that is switched off) is left out.
    """
    spots = [(_degrees(zone, "temp"), _trip(zone)) for zone in zones if not zone.word("type").startswith(_NOT_THE_CHIP)]
    spots += [spot for chip in chips if chip.word("name") in CHIP_SENSORS for spot in _chip_spots(chip)]
    warm = sorted((spot for spot in spots if known([spot[0]])), key=lambda spot: spot[0].value, reverse=True)
    if not warm:
        return worst([spot[0] for spot in spots], "°C", THERMAL), unknown("°C", Quality.ABSENT, THERMAL)
    hottest, oldest = warm[0][0], max((spot[0] for spot in warm), key=lambda each: each.age_s)
    trips = [trip for _, trip in warm]
    trip = next(iter(known(trips)), worst(trips, "°C", THERMAL))
    return Reading(hottest.value, "°C", oldest.age_s, oldest.quality, hottest.source), trip


def _chip_spots(chip: Snapshot) -> list[tuple[Reading, Reading]]:
    inputs = sorted(file for file in chip.texts if file.endswith("_input"))
    return [(_degrees(chip, file), _degrees(chip, file.replace("_input", "_crit"))) for file in inputs]


def _trip(zone: Snapshot) -> Reading:
    files = (f"{file.removesuffix('_type')}_temp" for file in zone.texts if _is_trip(zone, file))
    trips = [each for each in known([_degrees(zone, file) for file in files]) if each.value > _COOLEST_TRIP_C]
    return min(trips, key=lambda each: each.value, default=zone.lacks("°C", "trip_point_0_temp"))


def _is_trip(zone: Snapshot, file: str) -> bool:
    return file.startswith("trip_point_") and file.endswith("_type") and zone.word(file) in _SLOWS_OR_STOPS


def _degrees(snapshot: Snapshot, file: str) -> Reading:
    try:
        return snapshot.reading(parse_millidegrees(snapshot.texts[file]), "°C", file)
    except (KeyError, ValueError):
        return snapshot.lacks("°C", file)
