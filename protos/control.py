"""Frames on the agent's control socket: a JSON header, and raw bytes where the header says how many.

length of the header (4 bytes, big-endian) | header (UTF-8 JSON object with "bytes") | payload
"""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from learning_core.errors import Malformed

MAX_HEADER_BYTES = 1 << 20  # a status with its recent decisions is some ten thousand
MAX_PAYLOAD_BYTES = 64 << 20
_LENGTH = struct.Struct(">I")


def encode_frame(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps({**header, "bytes": len(payload)}, allow_nan=False).encode()
    if len(text) > MAX_HEADER_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError("the frame is larger than a reader would take")
    return _LENGTH.pack(len(text)) + text + payload


def read_frame(read: Callable[[int], bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next frame, or None when the other side has closed. `read(n)` gives n bytes, fewer only at the end.

    Raises Malformed.
    """
    start = read(_LENGTH.size)
    if not start:
        return None
    (length,) = _LENGTH.unpack(_exactly(start, _LENGTH.size))
    if length > MAX_HEADER_BYTES:
        raise Malformed(f"a header of {length} bytes is more than the {MAX_HEADER_BYTES} allowed")
    try:
        header = json.loads(_exactly(read(length), length))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the header is not JSON: {str(error)[:120]}") from error
    if not isinstance(header, dict) or type(size := header.pop("bytes", None)) is not int:
        raise Malformed("the header has to be an object that says how many bytes follow")
    if not 0 <= size <= MAX_PAYLOAD_BYTES:
        raise Malformed(f"a payload of {size} bytes is not within 0..{MAX_PAYLOAD_BYTES}")
    return header, _exactly(read(size), size) if size else b""


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise Malformed("the connection ended in the middle of a frame")
    return data
