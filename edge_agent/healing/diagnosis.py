"""What is wrong? Controlled re-runs that change one thing at a time, and no learned model.

golden requests as intended, against what they gave when approved      -> the student changed (its files? or only it?)
a larger exam of what changed, image by image against the approved one -> does the change do harm?
the same weights and noise, as set now, against as intended            -> the sampler
the same request twice through the door                                -> non-determinism
recent requests through the door, against drawn directly as set now    -> the condition is lost on the way
the same, drawn as intended, against what is usual                     -> asked for what the student does badly
the time a pass takes, and a request                                   -> throttled

Each asks its own question, so several causes at once are found together.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

import numpy as np
from numpy.typing import NDArray


class Cause(StrEnum):
    """What can be wrong, in the order in which it is mended."""

    CORRUPT = "corrupt"  # a file is not what its manifest says
    MODEL = "model"  # the student changed, and for the worse
    SAMPLER = "sampler"
    NONDETERMINISM = "nondeterminism"
    CONDITION = "condition"  # what was asked does not reach the student
    INPUT = "input"  # what is asked now is done badly by a sound student
    THROTTLE = "throttle"
    HARMLESS = "harmless"  # the student changed, and answers as well as before: for the log only


@dataclass(frozen=True, slots=True)
class Exam:
    """A student on its golden requests. `fidelity` in a judge's eyes, mean `anchor` cosine, `out_of_range` share."""

    fidelity: float
    anchor: float
    out_of_range: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the re-runs gave. Comparisons are mean 1 - SSIM.

    live and as_set: [N] anchor cosines of requests asked again through the door, and drawn as set now; differs: [N]
    whether these gave different images. The first R of them are recent ones; direct: [R], those drawn as intended.
    `slow_pass` and `slow_request`: log2 of a time over the usual one. `exam` None when the student did not change.
    """

    files_sound: bool
    model: float
    exam: Exam | None
    approved: Exam
    sampler: float
    flicker: float
    live: NDArray[np.float64]
    as_set: NDArray[np.float64]
    direct: NDArray[np.float64]
    differs: NDArray[np.bool_]
    usual_anchor: float
    slow_pass: float
    slow_request: float


@dataclass(frozen=True, slots=True)
class Margins:
    """How much counts. Comparisons that are exact only have to exceed rounding."""

    exact: float = 1e-4
    fidelity: float = 0.015  # an exam may lose so much
    anchor: float = 0.012
    out_of_range: float = 0.02
    lost: float = 0.01  # cosine that is lost between the door and the student, on average
    everywhere: float = 0.9  # share of requests that makes a difference one of all requests
    sure: float = 3.0  # standard errors, where the door's answers vary by themselves
    poor: float = 0.1  # cosine below the usual that makes a request a poor one, on average
    slow: float = 0.5  # log2: a factor of 1.4


def diagnose(evidence: Evidence, margins: Margins) -> tuple[Cause, ...]:
    """Every cause there is evidence of, in the order of `Cause`; none when nothing is wrong."""
    changed = evidence.model > margins.exact
    harmful = changed and evidence.exam is not None and does_harm(evidence.exam, evidence.approved, margins)
    found = {
        Cause.CORRUPT: not evidence.files_sound,
        Cause.MODEL: harmful and evidence.files_sound,
        Cause.SAMPLER: evidence.sampler > margins.exact,
        Cause.NONDETERMINISM: evidence.flicker > margins.exact and _differs_unharmed(evidence, margins),
        Cause.CONDITION: _is_lost(evidence, margins),
        Cause.INPUT: not harmful and _is_poor(evidence, margins),
        Cause.THROTTLE: min(evidence.slow_pass, evidence.slow_request) > margins.slow,
        Cause.HARMLESS: changed and not harmful,
    }
    return tuple(cause for cause in Cause if found[cause])


def does_harm(exam: Exam, approved: Exam, margins: Margins) -> bool:
    """Whether a student answers its golden requests worse than the approved one did, to the same noise."""
    return not (
        approved.fidelity - exam.fidelity <= margins.fidelity
        and approved.anchor - exam.anchor <= margins.anchor
        and exam.out_of_range - approved.out_of_range <= margins.out_of_range
    )


def _is_lost(evidence: Evidence, margins: Margins) -> bool:
    """Answers through the door are worse than the same ones drawn directly, by more than flicker explains."""
    gaps = evidence.as_set - evidence.live
    if not evidence.differs.any() or gaps.mean() <= margins.lost:
        return False
    if not evidence.differs.mean() > margins.everywhere:
        return True  # most requests give the very same image, so one that gives another took another way
    return len(gaps) > 1 and bool(gaps.mean() > margins.sure * gaps.std(ddof=1) / sqrt(len(gaps)))


def _differs_unharmed(evidence: Evidence, margins: Margins) -> bool:
    """Equal requests differ all over, or as good answers differ: a condition that is lost now and then is neither."""
    if not evidence.differs.any():
        return True
    unharmed = evidence.differs & (evidence.as_set - evidence.live < margins.poor)
    return bool(evidence.differs.mean() > margins.everywhere or unharmed.sum() > evidence.differs.sum() / 2)


def _is_poor(evidence: Evidence, margins: Margins) -> bool:
    """Neither the door's answers nor the intended ones are what is usual."""
    if not len(evidence.direct):
        return False
    best = max(float(evidence.direct.mean()), float(evidence.live[: len(evidence.direct)].mean()))
    return evidence.usual_anchor - best > margins.poor
