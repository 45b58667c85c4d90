"""Image files as arrays of numbers, without a library: PNG (8-bit grey or RGB), PGM, PPM and NPY, and no others.

PNG: ISO/IEC 15948; PGM and PPM: Netpbm's raw formats P5 and P6; NPY: numpy's format 1.0 and 2.0, whose header is
matched against a pattern and never evaluated. Whatever a file claims, no more memory is taken than `MAX_PIXELS`.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.normalise.pictures import LONGEST_SIDE
from learning_core.errors import Malformed

SUFFIXES = (".png", ".pgm", ".ppm", ".npy")
MAX_PIXELS = 3 << 20  # values, of all channels
_PNG = b"\x89PNG\r\n\x1a\n"
_NETPBM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d{1,5})(?:\s|#[^\n]*\n)+(\d{1,5})(?:\s|#[^\n]*\n)+255\s", re.ASCII)
_NPY = re.compile(
    rb"\{'descr': '(\|u1|<f4|<f8)', 'fortran_order': (True|False), 'shape': \((\d{1,9}(?:, ?\d{1,9})*),?\), ?\} *\n"
)


def read_image(data: bytes) -> NDArray[Any]:
    """The bytes of a file -> [H, W] or [H, W, C] uint8, or what an NPY holds. Raises Malformed."""
    if data.startswith(_PNG):
        return _png(data)
    if data[:2] in {b"P5", b"P6"}:
        return _netpbm(data)
    if data.startswith(b"\x93NUMPY"):
        return _npy(data)
    if data.startswith(b"\xff\xd8\xff"):
        raise Malformed("JPEG files are not read; save the image as PNG, PGM or PPM")
    raise Malformed("the file is no image that is read here: PNG (8-bit grey or RGB), PGM, PPM or NPY")


def _png(data: bytes) -> NDArray[np.uint8]:
    chunks = _chunks(data)
    kind, head = next(chunks, (b"", b""))
    if kind != b"IHDR" or len(head) != 13:
        raise Malformed("the PNG file does not begin with its header")
    width, height, depth, colour, packing, filtering, interlaced = struct.unpack(">IIBBBBB", head)
    if depth != 8 or colour not in {0, 2} or packing or filtering:
        raise Malformed("only 8-bit grey or RGB is read of PNG, without palette or transparency; convert it before")
    if interlaced:
        raise Malformed("interlaced PNG is not read; save it without")
    channels = 1 if colour == 0 else 3
    if not width or not height or width * channels * height > MAX_PIXELS or max(width, height) > LONGEST_SIDE:
        raise Malformed(f"a PNG of {width} x {height} is not within 1..{LONGEST_SIDE} and {MAX_PIXELS} values")
    size = (width * channels + 1) * height
    lines = _inflated(b"".join(body for name, body in chunks if name == b"IDAT"), size)
    pixels = _unfiltered(lines, height, width, channels)
    return pixels[:, :, 0] if channels == 1 else pixels


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and body of each chunk up to the end, each with its sum checked. Raises Malformed."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body, end = data[at + 8 : at + 8 + length], at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, end - 4)[0]:
            raise Malformed("the PNG file is damaged: a sum does not fit")
        if kind == b"IEND":
            return
        yield kind, body
        at = end
    raise Malformed("the PNG file ends before its end")


def _inflated(packed: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        lines = inflater.decompress(packed, size + 1)  # however small it was packed, it grows no further
    except zlib.error as error:
        raise Malformed("the PNG file is damaged: its pixels cannot be unpacked") from error
    if len(lines) != size:
        raise Malformed("the PNG file holds another number of pixels than its header says")
    return lines


def _unfiltered(lines: bytes, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Undo the five filters of PNG (clause 9.2): height x (1 + width x channels) bytes -> [height, width, channels].

    A pixel is told from those left of it, above, and in the corner between, so whole diagonals are undone at once;
    line by line in Python, a picture would hold everybody up for as long as it takes.
    """
    rows = np.frombuffer(lines, np.uint8).reshape(height, -1)
    kinds, pixels = rows[:, :1].astype(np.intp), rows[:, 1:].reshape(height, width, channels)
    if kinds.max() > 4:
        raise Malformed("the PNG file is damaged: a line has no known filter")
    if not kinds.any():
        return pixels
    padded = np.zeros((height, width + 1, channels), np.int16)  # one wider, so that a diagonal is every width-th pixel
    padded[:, :width] = pixels
    flat = padded.reshape(-1, channels)
    before = earlier = np.zeros((height + 1, channels), np.int16)  # the last two diagonals, by row from -1 on
    for diagonal in range(width + height - 1):
        low, high = max(0, diagonal - width + 1), min(height, diagonal + 1)
        start = low * width + diagonal
        here = flat[start : start + (high - low - 1) * width + 1 : width]
        left, above, corner = before[low + 1 : high + 1], before[low:high], earlier[low:high]
        told = (np.int16(0), left, above, (left + above) >> 1, _paeth(left, above, corner))
        here[:] = (here + np.choose(kinds[low:high], told)) & 255
        earlier, before = before, np.zeros_like(before)
        before[low + 1 : high + 1] = here
    return padded[:, :width].astype(np.uint8)


def _paeth(left: NDArray[Any], above: NDArray[Any], corner: NDArray[Any]) -> NDArray[Any]:
    """The neighbour closest to left + above - corner (PNG, clause 9.4)."""
    from_left, from_above = abs(above - corner), abs(left - corner)
    from_corner = abs(left + above - 2 * corner)
    others = np.where(from_above <= from_corner, above, corner)
    return np.where((from_left <= from_above) & (from_left <= from_corner), left, others)


def _netpbm(data: bytes) -> NDArray[np.uint8]:
    found = _NETPBM.match(data[:1024])
    if found is None:
        raise Malformed("only PGM and PPM with 8 bits are read (P5 or P6, 255)")
    width, height, channels = int(found[2]), int(found[3]), 1 if found[1] == b"5" else 3
    size = width * height * channels
    pixels = data[found.end() :]
    if not 0 < size <= MAX_PIXELS or len(pixels) != size:
        raise Malformed(f"the file holds {len(pixels)} bytes of pixels where its header says {size}")
    return np.frombuffer(pixels, np.uint8).reshape((height, width) if channels == 1 else (height, width, 3))


def _npy(data: bytes) -> NDArray[Any]:
    if len(data) < 12 or data[6] not in {1, 2}:
        raise Malformed("only NPY of the versions 1 and 2 is read")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    found = _NPY.fullmatch(data[start : start + length]) if length <= 4096 else None
    if found is None:
        raise Malformed("of NPY only arrays of uint8, float32 and float64 are read, little-endian and without objects")
    shape = tuple(int(each) for each in found[3].split(b","))
    dtype, body, count = np.dtype(found[1].decode()), data[start + length :], 1
    for each in shape:
        count *= each
    if not 0 < count <= MAX_PIXELS or len(shape) > 8 or len(body) != count * dtype.itemsize:
        raise Malformed(f"the NPY file holds {len(body)} bytes, which is not an array of the shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if found[2] == b"True" else "C")
