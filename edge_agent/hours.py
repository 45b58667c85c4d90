"""The hours of a day, on the local clock: "22:00-07:00" begins in the evening and ends in the morning."""

import datetime
import re
from typing import Annotated

from pydantic import AfterValidator

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def _window(text: str) -> str:
    begins, ends = _ends(text)
    if begins == ends:
        raise ValueError(f"{text!r} ends when it begins; give two different times")
    return text


Window = Annotated[str, AfterValidator(_window)]


def contains(window: str, moment: datetime.time) -> bool:
    """Whether the window has this moment: its first minute belongs to it, its last does not."""
    begins, ends = _ends(window)
    minute = moment.hour * 60 + moment.minute
    return begins <= minute < ends if begins < ends else minute >= begins or minute < ends


def _ends(text: str) -> tuple[int, int]:
    """The first minute of the window and the first after it, counted from midnight. Raises ValueError."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError('hours read like "22:00-07:00"')
    first, first_minute, last, last_minute = (int(part) for part in found.groups())
    return first * 60 + first_minute, last * 60 + last_minute
