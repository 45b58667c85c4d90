"""What learning draws: by the rails where they are measured, else by a calibration, else by the settings. Pure."""

from dataclasses import dataclass

from edge_agent.sensors.rails import is_of_rails
from edge_agent.values import Reading

REMEMBERED = 1200  # readings without a learner: ten minutes of the usual two a second
LEAST_READINGS = 20
IDLE_SHARE = 0.1  # the lowest tenth: what others draw meanwhile comes and goes, and counts as the learner's
BUSY_CORES = 0.02  # a learner that uses less of a core does not learn


@dataclass(frozen=True, slots=True)
class Idle:
    """The module's power, in watts, at the last looks at which nothing learned."""

    watts: tuple[float, ...] = ()

    @property
    def baseline_w(self) -> float | None:
        """None while too little was seen."""
        if len(self.watts) < LEAST_READINGS:
            return None
        return sorted(self.watts)[int(IDLE_SHARE * len(self.watts))]


@dataclass(frozen=True, slots=True)
class Rate:
    """What one busy core draws beyond idling, where nothing measures it, and how that is known."""

    watts: float
    source: str


@dataclass(frozen=True, slots=True)
class Used:
    """Energy since the last look, and how it is known."""

    joules: float
    source: str


def settled(rate_w: float, calibrated_w: float | None) -> Rate:
    """The calibration counts before the settings."""
    if calibrated_w is not None:
        return Rate(calibrated_w, f"calibrated: {calibrated_w:.2g} W for a busy core")
    return Rate(rate_w, f"assumed: {rate_w:g} W for a busy core (limits.learner_w)")


def watched(idle: Idle, power: Reading, max_age_s: float) -> Idle:
    """The baseline with one more look at which nothing learned."""
    if not (is_of_rails(power) and power.is_known(max_age_s)):
        return idle
    return Idle((*idle.watts[-REMEMBERED + 1 :], power.value))


def used(power: Reading, idle: Idle, max_age_s: float, core_s: float, passed_s: float, rate: Rate) -> Used:
    """What `core_s` seconds of a core took within `passed_s`.

    Measured, it is all that the module draws beyond its baseline, whoever draws it: rather too much than too little.
    """
    baseline_w = idle.baseline_w
    if baseline_w is None or not (is_of_rails(power) and power.is_known(max_age_s)):
        return Used(core_s * rate.watts, rate.source)
    rails = power.source.partition(",")[0]
    return Used(max(0.0, power.value - baseline_w) * passed_s, f"measured: {rails} beyond {baseline_w:.2g} W idle")
