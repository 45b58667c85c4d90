"""What a release has a place for, and how whatever a program saw is brought to it: `rows_of` is the one door.

Nothing is guessed. Eight-bit images mean 0..255, floats what the settings or the observation say; what does not fit is
refused with a sentence that names the setting which would make it fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.normalise.pictures import Span, picture
from edge_agent.normalise.texts import tokens
from edge_agent.normalise.vectors import vector
from learning_core.errors import Malformed
from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Conversions:
    """What a person allows: the span of float images, other sizes, and how features are standardised (if at all)."""

    floats: Span = Span.SIGNED
    resize: bool = False
    mean: Sequence[float] = ()
    spread: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """An image [channels, height, width] in -1..1."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Vector:
    """A row of numbers."""

    width: int


@dataclass(frozen=True, slots=True)
class Words:
    """Text as byte ids 0..255, `context` of them a row, padded with zeros."""

    context: int


Wanted = Picture | Vector | Words


def wanted_of(sample_shape: Sequence[int], *, text: bool = False) -> Wanted:
    """What samples of this shape are. Raises Malformed for text that meets a release of images."""
    match tuple(sample_shape):
        case (channels, height, width) if not text:
            return Picture(channels, height, width)
        case (width,):
            return Words(width) if text else Vector(width)
    what = "text" if text else "features"
    raise Malformed(f"{what} cannot be taken: the release takes samples of the shape {tuple(sample_shape)}")


def rows_of(raw: NDArray[Any] | str, wanted: Wanted, conversions: Conversions, span: Span | None = None) -> Array:
    """One observation as the release wants it: [R, *shape] float32, R > 1 only for a long text. Raises Malformed.

    raw: an array of numbers, or a text; `span`: of these floats, if who sent them said so. A vector with a span is
    taken as it is.
    """
    match wanted, raw:
        case Words(context), str(text):
            return tokens(text, context)
        case Picture(channels, height, width), np.ndarray():
            size = (channels, height, width)
            return picture(raw, size, span or conversions.floats, resize=conversions.resize)[None]
        case Vector(width), np.ndarray():
            known = span is not None
            return vector(raw, width, *(() if known else (conversions.mean, conversions.spread)))[None]
    raise Malformed(
        f"the release takes {_NAMES[type(wanted)]}, and this is {'text' if isinstance(raw, str) else 'not'}"
    )


_NAMES: Mapping[type, str] = {Picture: "images", Vector: "vectors of features", Words: "text"}
