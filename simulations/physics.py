"""A small physics twin of one device: two thermal masses and a battery. Simulated, and labelled so wherever it shows.

Heat: a die that follows the load within seconds and a body that follows within minutes, the smallest model that
tells a burst from a long job. The constants are illustrative, of the size of a passively cooled board; published
thermal resistances of one phone differ by a factor of four between two fits, so no figure here stands for a product.
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Board:
    """Constants of a device. Resistances in K/W, capacities in J/K, powers in W, energy in J."""

    ambient_c: float = 25.0
    die_to_body: float = 3.0
    body_to_air: float = 5.0
    die_capacity: float = 3.0
    body_capacity: float = 30.0
    idle_w: float = 1.2
    learning_w: float = 5.5  # added while one core does nothing but learn
    battery_j: float | None = 20_000.0  # None: no battery, fed by mains
    charger_w: float = 15.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Where a device stands. Temperatures in degrees Celsius, charge as a share 0..1."""

    die_c: float
    body_c: float
    charge: float = 1.0
    plugged: bool = False


def step(state: DeviceState, board: Board, learning_share: float, dt_s: float) -> DeviceState:
    """The device `dt_s` simulated seconds later, having spent `learning_share` (0..1) of one core on learning."""
    power_w = board.idle_w + learning_share * board.learning_w
    pieces = max(1, math.ceil(dt_s / (0.2 * board.die_capacity * board.die_to_body)))  # keeps explicit Euler stable
    die, body, dt = state.die_c, state.body_c, dt_s / pieces
    for _ in range(pieces):
        across = (die - body) / board.die_to_body
        out = (body - board.ambient_c) / board.body_to_air
        die, body = die + dt * (power_w - across) / board.die_capacity, body + dt * (across - out) / board.body_capacity
    charge = state.charge
    if board.battery_j is not None:
        gained_w = (board.charger_w if state.plugged else 0.0) - power_w
        charge = min(1.0, max(0.0, charge + gained_w * dt_s / board.battery_j))
    return replace(state, die_c=die, body_c=body, charge=charge)


def sysfs_files(state: DeviceState, board: Board) -> dict[str, str]:
    """What the kernel of such a device would show, by path below the file system's root (units of the kernel's ABI)."""
    zone = "sys/class/thermal/thermal_zone0"
    files = {
        f"{zone}/type": "cpu-thermal\n",
        f"{zone}/temp": f"{round(state.die_c * 1000)}\n",
        f"{zone}/trip_point_0_type": "passive\n",
        f"{zone}/trip_point_0_temp": "85000\n",
        f"{zone}/trip_point_1_type": "critical\n",
        f"{zone}/trip_point_1_temp": "105000\n",
    }
    if board.battery_j is not None:
        supply = "sys/class/power_supply/BAT0"
        status = "Discharging" if not state.plugged else "Full" if state.charge >= 1 else "Charging"
        files |= {
            f"{supply}/type": "Battery\n",
            f"{supply}/scope": "System\n",
            f"{supply}/capacity": f"{math.floor(state.charge * 100)}\n",
            f"{supply}/status": f"{status}\n",
        }
    return files
