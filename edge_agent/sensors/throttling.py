"""Whether the processor is held back now: by its kernel's coolers, its own counters, or a cap on its clock.

Kernel: Documentation/ABI/testing/sysfs-class-thermal, Documentation/admin-guide/pm/cpufreq.rst; the counters are
those of drivers/x86 thermal_throttle.
"""

from collections.abc import Mapping, Sequence

from edge_agent.sensors.snapshot import Snapshot, known, unknown, worst
from edge_agent.sensors.thermal import THERMAL
from edge_agent.values import Quality, Reading

COOLER_FILES = ("type", "cur_state")
PROCESSORS = "sys/devices/system/cpu"
COUNTER_FILES = "cpu[0-9]*/thermal_throttle/*_throttle_count"
CAP_FILES = "cpufreq/policy[0-9]*/*_max_freq"

_SLOWS_THE_CHIP = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "processor", "intel_powerclamp")
_SAYS_THAT_IT_SLOWS = "-throttle-alert"  # Jetson; what is neither is a fan


def throttled(
    coolers: Sequence[Snapshot], processors: Snapshot, earlier: Mapping[str, int], others: Sequence[Reading] = ()
) -> Reading:
    """1 when anything says that the processor is held back now, else 0. `others`: what the firmware says.

    A cap on the clock counts only where nothing better is there: people and power modes set one too, for good.
    """
    signs = [*others, of_coolers(coolers), of_counters(processors, earlier)]
    if not known(signs):
        signs.append(of_caps(processors))
    return max(known(signs), key=lambda each: each.value, default=worst(signs, "", THERMAL))


def of_coolers(coolers: Sequence[Snapshot]) -> Reading:
    """1 when a cooling device holds a processor back."""
    slowing = [each for each in coolers if _slows(each.word("type"))]
    signs = [_cooling(each) for each in slowing]
    return max(known(signs), key=lambda each: each.value, default=worst(signs, "", THERMAL))


def counts(processors: Snapshot) -> dict[str, int]:
    """How often each core has been throttled since it started, by file."""
    files = [file for file in processors.texts if file.endswith("_throttle_count")]
    return {file: count for file in files if (count := processors.whole(file)) is not None}


def of_counters(processors: Snapshot, earlier: Mapping[str, int]) -> Reading:
    """1 when a counter has risen since the `earlier` look; unknown before there was one."""
    common = [file for file in counts(processors) if file in earlier]
    if not common:
        return unknown("", Quality.ABSENT, f"{processors.place}/{COUNTER_FILES}")
    now = counts(processors)
    risen = max(common, key=lambda file: now[file] - earlier[file])
    return processors.reading(float(now[risen] > earlier[risen]), "", risen)


def of_caps(processors: Snapshot) -> Reading:
    """1 when the clock of a core may not go as high as it can."""
    signs = []
    for file in processors.texts:
        highest = processors.whole(file.replace("scaling_max_freq", "cpuinfo_max_freq"))
        cap = processors.whole(file)
        if file.endswith("scaling_max_freq") and cap and highest:
            signs.append(processors.reading(float(cap < highest), "", file))
    absent = unknown("", Quality.ABSENT, f"{processors.place}/{CAP_FILES}")
    return max(signs, key=lambda each: each.value, default=absent)


def _slows(kind: str) -> bool:
    return kind.startswith(_SLOWS_THE_CHIP) or kind.endswith(_SAYS_THAT_IT_SLOWS)


def _cooling(cooler: Snapshot) -> Reading:
    state = cooler.whole("cur_state")
    return cooler.lacks("", "cur_state") if state is None else cooler.reading(float(state > 0), "", "cur_state")
