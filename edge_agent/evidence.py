"""What a reading proves: that something is so, or that it may be so because the device does not show it."""

from edge_agent.config import Limits
from edge_agent.values import Action, Decision, Quality, Reading, Reason


def is_on(reading: Reading, max_age_s: float) -> bool:
    """Whether something that is 0 or 1 is known to be 1."""
    return reading.is_known(max_age_s) and reading.value > 0


def hidden(what: str, reading: Reading, limits: Limits) -> Decision | None:
    """Against a figure the device has, but does not show; what it does not have at all is not asked of it."""
    if reading.quality is Quality.ABSENT or reading.is_known(limits.max_reading_age_s):
        return None
    sentence = f"{what} cannot be read ({reading.quality}); make {reading.source} readable"
    return Decision(Action.WAIT, Reason.UNKNOWN, sentence)
