"""How much of a job fits, and how much is left for answering, before a limit is reached. Pure."""

import math

from edge_agent.config import Limits
from edge_agent.evidence import is_on
from edge_agent.heat import ceiling_c, cool_again_c
from edge_agent.values import Quality, Reading, Shape, Telemetry

LEAST_SHARE = 0.25  # of a usual job: less is not worth starting a learner for
CHARGE_ROOM = 0.1  # this much above the least charge, the battery no longer matters


def headroom(telemetry: Telemetry, limits: Limits, *, forced: bool) -> float:
    """What heat and charge leave: from 1 where training could go on again to 0 at a limit, and 0 while slowed down.

    A figure that the device does not have limits nothing; one that it has and does not show leaves no room.
    """
    if is_on(telemetry.throttled, limits.max_reading_age_s):
        return 0.0
    top_c = ceiling_c(telemetry, limits, forced=forced)
    return min(
        _room(telemetry.soc_temp_c, top_c, cool_again_c(top_c, limits), limits),
        1.0 if is_on(telemetry.plugged, limits.max_reading_age_s) else _of_charge(telemetry, limits),
    )


def shape(telemetry: Telemetry, limits: Limits, rank: int | None) -> Shape:
    """Heat and charge shorten a job, memory narrows it; `rank`: the columns an adapter of the served release has.

    Steps are what time and energy go into. A batch is what memory goes into, and fewer columns have fewer moments.
    """
    steps = max(LEAST_SHARE, headroom(telemetry, limits, forced=False))
    free = telemetry.free_memory_mib
    width = max(LEAST_SHARE, _room(free, limits.min_free_memory_mib, limits.resume_free_memory_mib, limits))
    return Shape(steps, width, None if rank is None or width >= 1 else max(1, math.ceil(width * rank)))


def _of_charge(telemetry: Telemetry, limits: Limits) -> float:
    return _room(telemetry.charge, limits.min_charge, limits.min_charge + CHARGE_ROOM, limits)


def _room(reading: Reading, at_limit: float, at_ease: float, limits: Limits) -> float:
    """Where a reading stands between its limit (0) and where the limit no longer matters (1)."""
    if not reading.is_known(limits.max_reading_age_s):
        return float(reading.quality is Quality.ABSENT)
    if at_ease == at_limit:
        return 1.0
    return min(1.0, max(0.0, (reading.value - at_limit) / (at_ease - at_limit)))
