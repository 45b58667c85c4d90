"""What a Raspberry Pi's firmware says of its supply and its clock.

`vcgencmd get_throttled`: Raspberry Pi documentation, "vcgencmd"; bits 16 to 19, "has happened since boot", are not
asked. The monitoring chip `rpi_volt` shows the under-voltage alone, to everybody and without a program.
"""

import re
from collections.abc import Sequence

from edge_agent.sensors.snapshot import Snapshot, known, worst
from edge_agent.values import Reading

VCGENCMD = ("usr/bin/vcgencmd", "get_throttled")
VOLTAGE_CHIP = "rpi_volt"
VOLTAGE_FILE = re.compile(r"name|in0_lcrit_alarm")

_UNDER_VOLTAGE = 0b0001
_HELD_BACK = 0b1110  # clock capped, throttled, soft temperature limit


def parse_throttled(text: str) -> int:
    """The bits of "throttled=0x50005". Raises ValueError."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip(), re.ASCII)
    if not found:
        raise ValueError("this is no answer to get_throttled")
    return int(found[1], 16)


def held_back(firmware: Snapshot) -> Reading:
    """1 while the firmware slows the processor down, for heat or for want of power."""
    return _bits(firmware, _HELD_BACK)


def under_voltage(firmware: Snapshot, chips: Sequence[Snapshot]) -> Reading:
    """1 while the supply gives too little."""
    alarms = [_alarm(chip) for chip in chips if chip.word("name") == VOLTAGE_CHIP]
    signs = [*alarms, _bits(firmware, _UNDER_VOLTAGE)]
    return max(known(signs), key=lambda each: each.value, default=worst(signs, "", VCGENCMD[0]))


def _bits(firmware: Snapshot, mask: int) -> Reading:
    try:
        return firmware.reading(float(parse_throttled(firmware.texts["output"]) & mask != 0), "", "output")
    except (KeyError, ValueError):
        return firmware.lacks("", "output")


def _alarm(chip: Snapshot) -> Reading:
    alarm = chip.whole("in0_lcrit_alarm")
    return chip.lacks("", "in0_lcrit_alarm") if alarm is None else chip.reading(float(alarm > 0), "", "in0_lcrit_alarm")
