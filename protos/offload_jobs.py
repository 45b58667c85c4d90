"""What a device that offloads and its fog say to each other, as values; and how bytes that were announced are taken in.

A header says how long what follows is and what its sha256 is, so nobody holds more than was announced, and what may be
announced is bounded. Nothing is compressed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from learning_core.errors import Malformed

MAX_PIECE_BYTES = 1 << 20


class Kind(StrEnum):
    """What a fog is given of a device's samples."""

    RAW = "raw"  # as they were taken
    LATENTS = "latents"  # clipped and noised on the device


class Standing(StrEnum):
    """How a job stands at the fog."""

    UNKNOWN = "unknown"  # never sent, dropped, or lost with the fog's process: send it
    WORKING = "working"
    DONE = "done"
    REFUSED = "refused"  # sending it again would not help
    BUSY = "busy"  # not now


@dataclass(frozen=True, slots=True)
class Offer:
    """What the fog can learn from now. No kind: nothing, for `reason`."""

    kinds: frozenset[Kind]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are to come. sha256: 32 bytes."""

    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class JobHeader:
    """A fit that a fog is to do. `job`: 32 bytes that name everything which decides what comes out.

    noise_deviation: standard deviation of the noise on each feature, 0 for raw samples.
    """

    job: bytes
    release: int
    manifest_sha256: str  # 64 hex digits
    kind: Kind
    noise_deviation: float
    steps: int
    batch: int
    learning_rate: float
    seed: int
    samples: Blob
    start: Blob


@dataclass(frozen=True, slots=True)
class JobState:
    standing: Standing
    step: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResultHeader:
    """What came of a job. `loss`: mean over its last steps."""

    job: bytes
    steps: int
    loss: float
    adapter: Blob


def blob_of(data: bytes) -> Blob:
    return Blob(len(data), hashlib.sha256(data).digest())


def pieces_of(*contents: bytes) -> Iterator[bytes]:
    """The contents one after the other, cut where each ends and every MiB."""
    for content in contents:
        for at in range(0, len(content), MAX_PIECE_BYTES):
            yield content[at : at + MAX_PIECE_BYTES]


def collect(pieces: Iterable[bytes], blobs: Iterable[Blob]) -> list[bytes]:
    """The announced contents, each of its size and sum, with nothing after them. Raises Malformed at once."""
    source, found = iter(pieces), []
    for blob in blobs:
        content = bytearray()
        while len(content) < blob.size:
            if (piece := next(source, None)) is None:
                raise Malformed(f"the transfer ended after {len(content)} of {blob.size} bytes")
            content += piece
        if len(content) > blob.size or hashlib.sha256(content).digest() != blob.sha256:
            raise Malformed("what was sent is not what its header announced")
        found.append(bytes(content))
    if next(source, None) is not None:
        raise Malformed("more was sent than its header announced")
    return found


def named(header: JobHeader) -> JobHeader:
    """With the name that everything else of it gives: equal jobs have equal names, on every device."""
    rest = [getattr(header, field.name) for field in fields(JobHeader) if field.name != "job"]
    return replace(header, job=hashlib.sha256(repr(rest).encode()).digest())


def statement(method: str, job: bytes) -> bytes:
    """What a device signs to prove that a call about a job is its own; the job's name covers all that is sent."""
    return b"dewfall offload/" + method.encode("ascii") + b"/" + job
