"""Whether bytes cost money: what NetworkManager says of the way out, and that modems usually do.

`nmcli` (NetworkManager, nmcli(1)): GENERAL.METERED is "yes", "no", either of them "(guessed)", or "unknown". The
kernel's /proc/net/route (proc(5)) has the way out as destination and mask 0. Modems are called ww* by systemd and
wwan* by the kernel (systemd.net-naming-scheme(7)), ppp* when dialled, rmnet* and ccmni* on phones.
"""

import re
from collections.abc import Mapping

from edge_agent.sensors.snapshot import Snapshot
from edge_agent.values import Quality, Reading

NMCLI = ("usr/bin/nmcli", "-t", "-f", "GENERAL.DEVICE,GENERAL.IP-IFACE,GENERAL.METERED", "device", "show")
ROUTES = "proc/net/route"

_MODEM = ("ww", "ppp", "rmnet", "ccmni")
_UP = 0x1  # RTF_UP
_HEX = re.compile(r"[0-9A-Fa-f]{1,8}", re.ASCII)


def parse_metered(text: str) -> Mapping[str, bool]:
    """Which interfaces are metered and which are not; those of which nothing is known are missing."""
    found: dict[str, bool] = {}
    names: list[str] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "GENERAL.DEVICE":
            names = [value]
        elif key == "GENERAL.IP-IFACE":
            names.append(value)
        elif key == "GENERAL.METERED" and value.startswith(("yes", "no")):
            found |= dict.fromkeys((name for name in names if name), value.startswith("yes"))
    return found


def parse_way_out(text: str) -> str | None:
    """The interface of the cheapest default route; None where there is none. Raises ValueError."""
    ways: list[tuple[int, str]] = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            break  # the text was cut off here
        interface, destination, flags, metric, mask = (fields[n] for n in (0, 1, 3, 6, 7))
        if not all(_HEX.fullmatch(each) for each in (destination, flags, mask)):
            raise ValueError("this is no table of routes")
        if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & _UP:
            ways.append((int(metric), interface))
    return min(ways)[1] if ways else None


def metered(machine: Snapshot, program: Snapshot | None) -> Reading:
    """1 when bytes cost money on the way out, else 0; absent where nothing tells.

    A program that is there and refuses says nothing: it is installed on machines whose network it does not run.
    """
    absent = Reading(0.0, "", float("inf"), Quality.ABSENT, f"{NMCLI[0]}, {ROUTES}")
    try:
        interface = parse_way_out(machine.texts[ROUTES])
    except (KeyError, ValueError):
        return absent
    if interface is None:
        return absent
    known = parse_metered(program.texts["output"]) if program is not None and "output" in program.texts else {}
    if program is not None and interface in known:
        return program.reading(float(known[interface]), "", f"GENERAL.METERED of {interface}")
    if interface.startswith(_MODEM):
        return machine.reading(1.0, "", f"{ROUTES}: {interface} is a modem")
    return absent
