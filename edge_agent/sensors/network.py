"""Whether bytes cost money: what NetworkManager says of the way out, and that modems usually do.

`nmcli` (NetworkManager, nmcli(1)): GENERAL.METERED is "yes", "no", either of them "(guessed)", or "unknown". The
kernel's /proc/net/route (proc(5)) has the way out as destination and mask 0; where there is none, as with phone
companies that give IPv6 alone, /proc/net/ipv6_route (net/ipv6/route.c, rt6_info_route) has it. Modems are called ww*
by systemd and wwan* by the kernel (systemd.net-naming-scheme(7)), ppp* when dialled, rmnet* and ccmni* on phones.
"""

import contextlib
import re
from collections.abc import Callable, Mapping

from edge_agent.sensors.snapshot import Snapshot
from edge_agent.values import Quality, Reading

NMCLI = ("usr/bin/nmcli", "-t", "-f", "GENERAL.DEVICE,GENERAL.IP-IFACE,GENERAL.METERED", "device", "show")
ROUTES, ROUTES6 = "proc/net/route", "proc/net/ipv6_route"

_MODEM = ("ww", "ppp", "rmnet", "ccmni")
_UP, _REJECT = 0x1, 0x200  # RTF_UP, RTF_REJECT: nothing gets out that way
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


def parse_way_out6(text: str) -> str | None:
    """The same of a table of IPv6 routes, which has no head. Raises ValueError."""
    ways: list[tuple[int, str]] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10:
            break  # the text was cut off here
        destination, length, metric, flags = (int(fields[n], 16) for n in (0, 1, 5, 8))
        if destination == length == 0 and flags & _UP and not flags & _REJECT:
            ways.append((metric, fields[9]))
    return min(ways)[1] if ways else None


def metered(machine: Snapshot, program: Snapshot | None) -> Reading:
    """1 when bytes cost money on the way out, else 0; absent where nothing tells.

    A program that is there and refuses says nothing: it is installed on machines whose network it does not run.
    """
    absent = Reading(0.0, "", float("inf"), Quality.ABSENT, f"{NMCLI[0]}, {ROUTES}, {ROUTES6}")
    for file, parse in ((ROUTES, parse_way_out), (ROUTES6, parse_way_out6)):
        if (interface := _way_out(machine, file, parse)) is not None:
            break
    else:
        return absent
    known = parse_metered(program.texts["output"]) if program is not None and "output" in program.texts else {}
    if program is not None and interface in known:
        return program.reading(float(known[interface]), "", f"GENERAL.METERED of {interface}")
    if interface.startswith(_MODEM):
        return machine.reading(1.0, "", f"{file}: {interface} is a modem")
    return absent


def _way_out(machine: Snapshot, file: str, parse: Callable[[str], str | None]) -> str | None:
    with contextlib.suppress(KeyError, ValueError):
        return parse(machine.texts[file])
    return None
