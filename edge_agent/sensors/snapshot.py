"""What was last read from one place of the device, and how a text or a number is taken from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_agent.values import Quality, Reading

_WHOLE = 1 << 63


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The texts of one folder or program as last read. With quality stale they are `age_s` old.

    A place of which only some files may be read is denied and has the texts of the others.
    """

    place: str
    texts: Mapping[str, str]
    quality: Quality
    age_s: float

    def word(self, file: str) -> str:
        return self.texts.get(file, "").strip().lower()

    def whole(self, file: str) -> int | None:
        try:
            return parse_whole(self.texts[file])
        except (KeyError, ValueError):
            return None

    def reading(self, value: float, unit: str, file: str) -> Reading:
        """A reading of `value`, made from the text of `file`."""
        quality = Quality.STALE if self.quality is Quality.STALE else Quality.OK
        return Reading(value, unit, self.age_s, quality, f"{self.place}/{file}")

    def lacks(self, unit: str, file: str) -> Reading:
        """That `file` says nothing: it is not there, or what it says cannot be."""
        if file in self.texts:
            return unknown(unit, Quality.IMPLAUSIBLE, f"{self.place}/{file}")
        quality = self.quality if self.quality is Quality.DENIED else Quality.ABSENT
        return unknown(unit, quality, f"{self.place}/{file}")


def parse_whole(text: str) -> int:
    """A whole number as kernels write them, in 64 bits. Raises ValueError."""
    value = int(text)
    if not -_WHOLE <= value < _WHOLE:
        raise ValueError("no kernel counts that far")
    return value


def unknown(unit: str, quality: Quality, source: str) -> Reading:
    return Reading(0.0, unit, float("inf"), quality, source)


def known(readings: Sequence[Reading]) -> list[Reading]:
    return [each for each in readings if each.quality in {Quality.OK, Quality.STALE}]


def worst(readings: Sequence[Reading], unit: str, source: str) -> Reading:
    """Why not all of these are known: the first that is there but says nothing, else that something is not there."""
    silent = (each for each in readings if each.quality in {Quality.DENIED, Quality.IMPLAUSIBLE})
    return next(silent, unknown(unit, Quality.ABSENT, source))
