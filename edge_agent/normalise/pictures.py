"""Images from different tools as one kind: [C, H, W], float32 in -1..1.

Order: which axis is which, then the span of the values, then colour, then size. Each step is linear, so that a
conversion can be checked by hand.
"""

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning_core.errors import Malformed
from learning_core.params import Array

LONGEST_SIDE = 4096
CHANNELS = (1, 3)
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601-7, 2.5.1
SLACK = 1e-3  # of a span: what rounding in another program adds
LOOSE = 8.0  # images standardised elsewhere pass -1..1 a little; one that goes further is on another scale


class Span(StrEnum):
    """What the floats of an image lie between."""

    SIGNED = "-1..1"
    UNIT = "0..1"
    BYTE = "0..255"


def picture(raw: NDArray[Any], wanted: tuple[int, int, int], span: Span, *, resize: bool) -> Array:
    """[H, W], [H, W, C] or [C, H, W], of bytes or floats -> `wanted` [C, H, W] in -1..1. Raises Malformed."""
    image = signed(channels_first(raw, wanted), span)
    image = coloured(image, wanted[0])
    if image.shape[1:] == wanted[1:]:
        return image
    if not resize:
        height, width = image.shape[1:]
        raise Malformed(
            f"the image is {height} x {width} and the release takes {wanted[1]} x {wanted[2]}; "
            "scale it before, or set source.resize = true"
        )
    return area_averaged(image, wanted[1], wanted[2])


def channels_first(raw: NDArray[Any], wanted: tuple[int, int, int]) -> NDArray[Any]:
    """Find out which axis holds the channels. One reading that has exactly the wanted size goes before the other."""
    if raw.ndim == 2:
        raw = raw[None]
        first, last = True, False
    elif raw.ndim == 3:
        first, last = raw.shape[0] in CHANNELS, raw.shape[2] in CHANNELS
    else:
        raise Malformed(f"an image has two or three axes, not {raw.ndim}")
    if first and last:
        first, last = raw.shape[1:] == wanted[1:], raw.shape[:2] == wanted[1:]
        if first == last and raw.shape != wanted:
            raise Malformed(f"of an image {raw.shape} it cannot be told which axis is colour; send [channels, H, W]")
        first = first or raw.shape == wanted
    if not (first or last):
        raise Malformed(f"an image {raw.shape} has neither 1 nor 3 channels; transparency has to be taken out before")
    image = raw if first else raw.transpose(2, 0, 1)
    if not 1 <= min(image.shape[1:]) <= max(image.shape[1:]) <= LONGEST_SIDE:
        raise Malformed(f"an image of {image.shape[1]} x {image.shape[2]} is not within 1..{LONGEST_SIDE} either way")
    return image


def signed(image: NDArray[Any], span: Span) -> Array:
    """Values to -1..1: bytes from 0..255, floats from their span. Raises Malformed."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(127.5) - np.float32(1)
    if image.dtype.kind != "f":
        raise Malformed(f"an image holds bytes (uint8) or floats, not {image.dtype}")
    values = image.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Malformed("every value of an image has to be finite")
    if span is Span.SIGNED:
        if max(-low, high) > LOOSE:
            raise Malformed(f"the image goes from {low:g} to {high:g}, not -1..1; set source.floats to what it is")
        return values
    top = 1.0 if span is Span.UNIT else 255.0
    if low < -SLACK * top or high > (1 + SLACK) * top:
        raise Malformed(f"the image goes from {low:g} to {high:g}, not {span}; set source.floats to what it is")
    return np.asarray(np.clip(values * np.float32(2 / top) - np.float32(1), -1, 1), np.float32)


def coloured(image: Array, channels: int) -> Array:
    """[C, H, W] -> [channels, H, W]: grey as three equal colours, colours as their luma. Raises Malformed."""
    if len(image) == channels:
        return image
    if len(image) == 1:
        return np.repeat(image, channels, axis=0)
    if channels == 1:
        return np.asarray(np.tensordot(LUMA, image, axes=1)[None], np.float32)
    raise Malformed(f"an image of {len(image)} channels cannot become one of {channels}")


def area_averaged(image: Array, height: int, width: int) -> Array:
    """[C, H, W] -> [C, height, width]; each new pixel is the mean of the area it covers, the mean of all stays.

    Proportions are not kept: what was wider becomes narrower.
    """
    rows, columns = _shares(image.shape[1], height), _shares(image.shape[2], width)
    return np.asarray(rows @ image @ columns.T, np.float32)


def _shares(before: int, after: int) -> Array:
    """[after, before]: which share of each new pixel each old one takes; rows sum to 1."""
    edges = np.arange(after + 1) * (before / after)
    low, high = edges[:-1, None], edges[1:, None]
    old = np.arange(before)
    covered = np.clip(np.minimum(high, old + 1) - np.maximum(low, old), 0, None)
    return np.asarray(covered / covered.sum(axis=1, keepdims=True), np.float32)
