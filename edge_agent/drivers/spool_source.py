"""A folder into which any program drops samples: written under another name, then renamed.

`<name>.safetensors` holds features [N, ...] float32 or uint8 (or texts, uint8 end to end, with lengths [N]) and, where
the program knows them, conditions [N], taken_at_s [N] and ids [N], all int64. An image file is one sample; `.c3` before
its suffix says that it is of class 3.
"""

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.plain_files import is_plain_name, read_plain
from edge_agent.drivers.set_aside import MAX_BYTES, SetAside
from edge_agent.normalise.image_files import SUFFIXES, read_image
from edge_agent.normalise.pictures import Span
from edge_agent.normalise.wanted import Conversions, rows_of, wanted_of
from edge_agent.proposing import UNKNOWN
from edge_agent.values import Arrival
from learning_core.errors import Malformed
from learning_core.params import Array
from learning_core.samples import Batch
from protos.codec import decode_tensors, encode_tensors

SUFFIX = ".safetensors"
MAX_SAMPLES = 4096
SETTLED_S = 1.0  # image files are often written in place: whole is what has not changed for so long
SPANS = tuple(Span)  # what the tensor `span` counts
_CLASS = re.compile(r"\.c(\d{1,9})\.[a-z]+", re.ASCII)
PER_SAMPLE = ("conditions", "taken_at_s", "ids")
KNOWN = {"features", "span", "texts", "lengths", *PER_SAMPLE}


class SpoolSource:
    """Files waiting in one folder; the folder itself is all that is saved."""

    def __init__(
        self,
        folder: Path,
        max_file_bytes: int,
        conversions: Conversions = Conversions(),
        max_set_aside_bytes: int = MAX_BYTES,
    ) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._conversions = conversions
        self._aside = SetAside(folder, max_set_aside_bytes)
        self._stuck: set[str] = set()  # files that can be neither removed nor moved

    def pending(self) -> list[str]:
        """Names of whole files, in order; drafts start with a dot."""
        now_s = time.time()
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if _is_whole(entry, now_s)]
        except OSError:
            return []
        return sorted(name for name in names if name not in self._stuck)

    def load(self, name: str, sample_shape: tuple[int, ...], num_conditions: int) -> Arrival | None:
        """One file, None when somebody took it away. Raises Malformed."""
        if not is_plain_name(name):
            raise Malformed("its name is too long, or holds characters that cannot be shown")
        try:
            data = read_plain(self._folder / name, self._max_file_bytes)
        except FileNotFoundError:
            return None
        tensors = decode_tensors(data, self._max_file_bytes) if name.endswith(SUFFIX) else one_image(name, data)
        raws, span = raw_samples(tensors)
        about = {each: _column(tensors, each, len(raws)) for each in PER_SAMPLE}
        if len(firsts := _firsts(about["ids"])) < len(raws):
            raws, about = [raws[at] for at in firsts], {each: column[firsts] for each, column in about.items()}
        rows, origin = normalised(raws, sample_shape, self._conversions, span)
        conditions = about["conditions"][origin]
        if conditions.min() < UNKNOWN or conditions.max() >= num_conditions:
            raise Malformed(f"conditions have to lie within 0..{num_conditions - 1}, or be -1 where nobody knows")
        digest = hashlib.sha256(data).hexdigest()
        return Arrival(name, digest, Batch(rows, conditions), about["taken_at_s"][origin], about["ids"][origin])

    def done(self, name: str) -> bool:
        """Remove the file; False when that is not possible, and then it is left alone from now on."""
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError:
            self._stuck.add(name)
            return False
        return True

    def refuse(self, name: str, reason: str) -> None:
        """Move the file to `refused/`, where a person can look at it and read why."""
        try:
            self._aside.refuse(name, reason)
        except OSError:
            self._stuck.add(name)

    def set_aside(self, arrival: Arrival, row: int, reason: str) -> None:
        """One sample to `unsure/`, under a name that only its file's bytes and its place in it decide."""
        only: dict[str, NDArray[Any]] = {
            "features": arrival.batch.features[row : row + 1],
            "taken_at_s": arrival.taken_at_s[row : row + 1],
            "span": np.array([SPANS.index(Span.SIGNED)]),
        }
        data = encode_tensors(only)
        self._aside.keep(f"{arrival.digest[:16]}-{row:04}{SUFFIX}", data, reason)


def raw_samples(tensors: dict[str, NDArray[Any]]) -> tuple[list[NDArray[Any] | str], Span | None]:
    """What a file holds, as it was sent, and the span of its floats if it says. Raises Malformed."""
    span = tensors.get("span")
    if span is not None and (span.dtype != np.int64 or span.shape != (1,) or not 0 <= span[0] < len(SPANS)):
        raise Malformed(f"span has to be one int64 within 0..{len(SPANS) - 1}")
    raws: list[NDArray[Any] | str]
    if tensors.keys() <= {"features", "span", *PER_SAMPLE} and "features" in tensors:
        features = tensors["features"]
        if features.dtype == np.int64 or features.ndim == 0:
            raise Malformed("features are float32 or uint8, one for each sample")
        raws = list(features[: MAX_SAMPLES + 1])
    elif tensors.keys() <= {"texts", "lengths", *PER_SAMPLE} and {"texts", "lengths"} <= tensors.keys():
        raws = list(_texts(tensors["texts"], tensors["lengths"]))
    else:
        raise Malformed("it has to hold features, or texts and lengths, and may hold conditions, taken_at_s and ids")
    if not 1 <= len(raws) <= MAX_SAMPLES:
        raise Malformed(f"it holds {len(raws)} samples, not 1 to {MAX_SAMPLES}")
    return raws, None if span is None else SPANS[int(span[0])]


def normalised(
    raws: list[NDArray[Any] | str], shape: tuple[int, ...], conversions: Conversions, span: Span | None
) -> tuple[Array, NDArray[np.int64]]:
    """Rows [R, *shape] as the release takes them, and which raw sample each came from, [R]. Raises Malformed."""
    wanted, rows, origin = wanted_of(shape, text=isinstance(raws[0], str)), [], []
    for index, raw in enumerate(raws):
        try:
            made = rows_of(raw, wanted, conversions, span)
        except Malformed as error:
            raise Malformed(f"sample {index}: {error}" if len(raws) > 1 else str(error)) from error
        rows.append(made)
        origin += [index] * len(made)
    return np.concatenate(rows), np.array(origin, np.int64)


def one_image(name: str, data: bytes) -> dict[str, NDArray[Any]]:
    """An image file as if it had come in a file of tensors. Raises Malformed."""
    tensors: dict[str, NDArray[Any]] = {"features": read_image(data)[None]}
    known = class_of(name)
    return tensors if known is None else tensors | {"conditions": np.array([known])}


def class_of(name: str) -> int | None:
    """The class that an image file's name tells.

    >>> class_of("gate.c3.png")
    3
    """
    found = _CLASS.search(name)
    return int(found[1]) if found is not None and found.end() == len(name) else None


def _is_whole(entry: "os.DirEntry[str]", now_s: float) -> bool:
    if entry.name.startswith("."):
        return False
    if entry.name.endswith(SUFFIX):
        return True
    if not entry.name.endswith(SUFFIXES):
        return False
    try:
        return not 0 <= now_s - entry.stat(follow_symlinks=False).st_mtime < SETTLED_S
    except OSError:
        return False


def _column(tensors: dict[str, NDArray[Any]], name: str, count: int) -> NDArray[np.int64]:
    missing = {"conditions": UNKNOWN, "taken_at_s": int(time.time()), "ids": 0}
    column = tensors.get(name)
    if column is None:
        return np.full(count, missing[name], np.int64)
    if column.dtype != np.int64 or column.shape != (count,):
        raise Malformed(f"{name} are {column.dtype} {column.shape}, not int64 [{count}]")
    return column


def _firsts(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of all samples but those whose id came before in the same file."""
    _, firsts = np.unique(ids, return_index=True)
    return np.union1d(firsts, np.flatnonzero(ids == 0))


def _texts(data: NDArray[Any], lengths: NDArray[Any]) -> list[str]:
    if data.dtype != np.uint8 or data.ndim != 1 or lengths.dtype != np.int64 or lengths.ndim != 1:
        raise Malformed("texts are uint8 end to end, lengths int64, one for each text")
    if len(lengths) > MAX_SAMPLES or not ((lengths >= 0) & (lengths <= len(data))).all() or lengths.sum() != len(data):
        raise Malformed("the lengths do not add up to the texts")
    ends, raw = np.cumsum(lengths), data.tobytes()
    try:
        return [raw[end - length : end].decode("utf-8") for end, length in zip(ends, lengths, strict=True)]
    except UnicodeDecodeError as error:
        raise Malformed("a text is not UTF-8") from error
