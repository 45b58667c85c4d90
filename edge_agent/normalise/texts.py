"""Text as byte ids for a byte-level language model: composed (NFC), UTF-8, in rows of one context."""

import unicodedata

import numpy as np

from learning_core.errors import Malformed
from learning_core.params import Array

MAX_BYTES = 1 << 16
PLAIN = "\n\t"  # control characters a text may hold; NUL is what rows are padded with


def tokens(text: str, context: int) -> Array:
    """[R, context] float32 holding ids 0..255, the last row padded with zeros. Raises Malformed.

    Equal texts give equal ids however their accents were typed (Unicode Standard Annex 15).
    """
    composed = unicodedata.normalize("NFC", text)
    if any(unicodedata.category(each) == "Cc" and each not in PLAIN for each in composed):
        raise Malformed("a text must not hold control characters other than line breaks and tabs")
    try:
        data = composed.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed("the text is not Unicode: it holds half a character") from error
    if not composed.strip():
        raise Malformed("the text is empty")
    if len(data) > MAX_BYTES:
        raise Malformed(f"the text takes {len(data)} bytes, more than the {MAX_BYTES} allowed; cut it before")
    rows = -(-len(data) // context)
    padded = np.zeros(rows * context, np.float32)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return padded.reshape(rows, context)
