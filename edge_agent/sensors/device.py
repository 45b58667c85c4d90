"""All that is known of a device, from everything that was read of it in one look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.sensors.network import ROUTES, ROUTES6, metered
from edge_agent.sensors.pressure import LOADS, cpu_pressure, free_memory, memory_pressure
from edge_agent.sensors.rails import MONITOR, RAIL_FILE, module_power
from edge_agent.sensors.raspberry import VOLTAGE_CHIP, VOLTAGE_FILE, held_back, under_voltage
from edge_agent.sensors.snapshot import Snapshot
from edge_agent.sensors.supply import power
from edge_agent.sensors.termux import phone_power
from edge_agent.sensors.thermal import CHIP_FILE, CHIP_SENSORS, heat
from edge_agent.sensors.throttling import throttled
from edge_agent.values import Quality, Telemetry

CHIPS = "sys/class/hwmon"
MACHINE_FILES = (*LOADS, ROUTES, ROUTES6)
CHIP_FILES = {**dict.fromkeys(CHIP_SENSORS, CHIP_FILE), MONITOR: RAIL_FILE, VOLTAGE_CHIP: VOLTAGE_FILE}
NOWHERE = Snapshot("", {}, Quality.ABSENT, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a device. `phone` and `network` are None where there is no Termux and no NetworkManager.

    `earlier`: throttle counts of the look before.
    """

    zones: Sequence[Snapshot] = ()
    coolers: Sequence[Snapshot] = ()
    supplies: Sequence[Snapshot] = ()
    chips: Sequence[Snapshot] = ()
    machine: Snapshot = NOWHERE
    processors: Snapshot = NOWHERE
    firmware: Snapshot = NOWHERE
    phone: Snapshot | None = None
    network: Snapshot | None = None
    earlier: Mapping[str, int] = field(default_factory=dict)


def telemetry_of(look: Look) -> Telemetry:
    """What the device says of itself. A measured module counts before a battery's current."""
    soc_temp_c, trip_c = heat(look.zones, look.chips)
    supply = power(look.supplies) if look.phone is None else phone_power(look.phone)
    module_w = module_power(look.chips)
    return Telemetry(
        soc_temp_c=soc_temp_c,
        throttled=throttled(look.coolers, look.processors, look.earlier, [held_back(look.firmware)]),
        charge=supply.charge,
        plugged=supply.plugged,
        trip_c=trip_c,
        under_voltage=under_voltage(look.firmware, look.chips),
        battery_temp_c=supply.battery_temp_c,
        power_w=module_w if module_w.quality is not Quality.ABSENT else supply.power_w,
        cpu_pressure=cpu_pressure(look.machine),
        memory_pressure=memory_pressure(look.machine),
        free_memory_mib=free_memory(look.machine),
        metered=metered(look.machine, look.network),
    )
