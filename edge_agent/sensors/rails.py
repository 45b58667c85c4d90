"""The power of a Jetson's module, from the INA3221 monitors on its rails. The carrier board is not in it.

Kernel: Documentation/hwmon/ina3221.rst. Rails are known by their label; channel 7 is the sum of shunt voltages.
"""

import re
from collections.abc import Sequence

from edge_agent.sensors.snapshot import Snapshot, known, unknown, worst
from edge_agent.values import Quality, Reading

MONITOR = "ina3221"
RAIL_FILE = re.compile(r"name|in[1-3]_(label|input)|curr[1-3]_input")

_OF_RAILS = "module power"
_WHOLE_MODULE = {"vdd_in", "pom_5v_in"}
_MOST_W = 500.0


def module_power(chips: Sequence[Snapshot]) -> Reading:
    """Watts of the input rail where there is one, else of all rails together."""
    monitors = [chip for chip in chips if chip.word("name") == MONITOR]
    rails = [(chip, n) for chip in monitors for n in "123" if chip.word(f"in{n}_label") not in {"", "nc"}]
    measured = [rail for rail in rails if rail[0].word(f"in{rail[1]}_label") in _WHOLE_MODULE] or rails
    powers = [_watts(chip, n) for chip, n in measured]
    if not powers or len(known(powers)) < len(powers):
        return worst(powers, "W", f"sys/class/hwmon, no {MONITOR}")
    oldest = max(powers, key=lambda each: each.age_s)
    names = " + ".join(chip.texts[f"in{n}_label"].strip() for chip, n in measured)
    total_w = sum(each.value for each in powers)
    return Reading(total_w, "W", oldest.age_s, oldest.quality, f"{_OF_RAILS} ({names}), {oldest.source}")


def is_of_rails(power: Reading) -> bool:
    """Whether a power was measured at the module, and not at a battery that also feeds a screen."""
    return power.source.startswith(_OF_RAILS)


def _watts(chip: Snapshot, n: str) -> Reading:
    millivolts, milliamperes = chip.whole(f"in{n}_input"), chip.whole(f"curr{n}_input")
    if millivolts is None or milliamperes is None:
        return chip.lacks("W", f"in{n}_input" if millivolts is None else f"curr{n}_input")
    microwatts = millivolts * milliamperes
    if not 0 <= microwatts < _MOST_W * 1e6:
        return unknown("W", Quality.IMPLAUSIBLE, f"{chip.place}/curr{n}_input")
    return chip.reading(microwatts / 1e6, "W", f"curr{n}_input")
