"""What travels between tiers: how weights changed, never what they were learned from."""

import re
from dataclasses import dataclass
from enum import StrEnum

from learning_core.params import Params


@dataclass(frozen=True, slots=True, order=True)
class ModelVersion:
    """`release` names the frozen base, `step` how often its shared adapter was consolidated since."""

    release: int
    step: int = 0

    def __str__(self) -> str:
        return f"{self.release}.{self.step}"

    @classmethod
    def parse(cls, text: str) -> "ModelVersion":
        """Inverse of `str`. Raises ValueError."""
        if not (found := re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text, re.ASCII)):
            raise ValueError(f"a model version reads like 1.3, not {text[:40]!r}")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Update:
    """Adapter after minus adapter before, learned by one device from `num_examples` samples."""

    delta: Params
    num_examples: int
    base_version: ModelVersion


@dataclass(frozen=True, slots=True)
class ClippedUpdate:
    """An update whose length is at most `clip_norm`; only `federation.privacy.clip` makes one."""

    update: Update
    clip_norm: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The noised mean change of one fog's round, over a fixed denominator of `expected_cohort` devices."""

    delta: Params
    expected_cohort: float
    base_version: ModelVersion
    fog: str
    round: int


class Refusal(StrEnum):
    """Why an update was not counted."""

    STALE = "stale"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    TOO_LONG = "too_long"
