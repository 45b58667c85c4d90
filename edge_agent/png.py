"""Images as a PNG file, without a library: rows side by side, grey or colour (ISO/IEC 15948)."""

import struct
import zlib

import numpy as np

from learning_core.params import Array

GAP, PAPER = 1, 255


def png_of(images: Array, columns: int = 8, zoom: int = 8) -> bytes:
    """A sheet of images [N, C, H, W] in -1..1, C 1 or 3, as the bytes of a PNG file."""
    count, channels, height, width = images.shape
    if channels not in {1, 3}:
        raise ValueError(f"an image has 1 or 3 channels, not {channels}")
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), PAPER, np.uint8)
    pixels = np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    large = sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)
    lines = b"".join(b"\0" + line.tobytes() for line in large)  # each line says that it is not filtered
    head = struct.pack(">IIBBBBB", large.shape[1], large.shape[0], 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(lines)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
