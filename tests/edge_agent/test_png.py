import struct
import zlib

import numpy as np
import pytest

from edge_agent.png import png_of


def decoded(data):
    """(width, height, colour type, rows) of an unfiltered PNG."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert depth == 8
    assert (rows[:, 0] == 0).all()
    return width, height, colour, rows[:, 1:]


def test_an_image_becomes_its_pixels():
    image = np.array([[-1.0, 1.0], [0.0, 3.0]], np.float32)[None, None]
    width, height, colour, rows = decoded(png_of(image, zoom=1))
    assert (width, height, colour) == (2, 2, 0)
    assert rows.tolist() == [[0, 255], [128, 255]]


def test_images_stand_side_by_side_with_a_gap_and_colour_stays_colour():
    width, height, colour, _ = decoded(png_of(np.zeros((5, 3, 8, 8), np.float32), columns=3, zoom=2))
    assert (width, height, colour) == ((3 * 9 - 1) * 2, (2 * 9 - 1) * 2, 2)


def test_two_channels_are_no_picture():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        png_of(np.zeros((1, 2, 8, 8), np.float32))
