"""Writes down what every message that crosses a tier is made of: names, types, shapes and sizes, never a value.

Read from the raw records and protobuf messages, not from what our decoders made of them, so that the file can show
that nothing but adapters, counts and metrics crossed. It grows without end: for demonstrations and audits.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flwr.app import ArrayRecord, RecordDict
from google.protobuf.message import Message

from fog_aggregator.ports import Fleet, Reply
from learning_core.errors import StateError

_SHAPE = re.compile(rb"'descr': *'([^']{1,16})'.{0,60}?'shape': *\(([0-9, ]*)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Crossing:
    """One message. `peer`: the node id or address on the other side; `size`: bytes of its content."""

    tier: Literal["device", "cloud"]
    direction: Literal["up", "down"]
    kind: str
    peer: str
    content: Mapping[str, Any]
    size: int


Tap = Callable[[Crossing], None]


class FileTap:
    """Appends one JSON line a message to `path`; saved with each line."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise StateError(f"the tap {path} cannot be written ({error.strerror}); set another path") from error

    def __call__(self, crossing: Crossing) -> None:
        line = json.dumps({"at_s": round(time.time(), 3), **asdict(crossing)})
        with self._lock:
            if not self._file.closed:
                self._file.write(line + "\n")

    def close(self) -> None:
        with self._lock:
            self._file.close()


class TappedFleet:
    """A fleet whose messages are noted on their way."""

    def __init__(self, fleet: Fleet, tap: Tap) -> None:
        self._fleet = fleet
        self._tap = tap
        self._kinds: dict[str, str] = {}

    def enroll(self, public_key: bytes, name: str) -> int:
        return self._fleet.enroll(public_key, name)

    def online(self) -> frozenset[int]:
        return self._fleet.online()

    def push(self, kind: str, payloads: Mapping[int, RecordDict], ttl_s: float) -> dict[str, int]:
        sent = self._fleet.push(kind, payloads, ttl_s)
        for message_id, node in sent.items():
            self._kinds[message_id] = kind
            self._tap(Crossing("device", "down", kind, str(node), *describe_records(payloads[node])))
        return sent

    def pull(self, message_ids: Collection[str], wait_s: float) -> list[Reply]:
        replies = self._fleet.pull(message_ids, wait_s)
        for reply in replies:
            kind = self._kinds.pop(reply.message_id, "unknown")
            if reply.content is not None:
                self._tap(Crossing("device", "up", kind, str(reply.node_id), *describe_records(reply.content)))
        return replies

    def traffic(self) -> tuple[int, int]:
        return self._fleet.traffic()

    def close(self) -> None:
        self._fleet.close()


def describe_records(content: RecordDict) -> tuple[dict[str, Any], int]:
    """Each record's entries by name; arrays as their own header states them. And the bytes they take."""
    described: dict[str, Any] = {}
    size = 0
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            described[name] = {key: _array(array.data) for key, array in record.items()}
            size += sum(len(array.data) for array in record.values())
        else:
            described[name] = {key: type(value).__name__ for key, value in record.items()}
            size += sum(len(key) + _size(value) for key, value in record.items())
    return described, size


def describe_message(message: Message) -> tuple[dict[str, Any], int]:
    """Each field that is set, by name; bytes that are safetensors as their header states them. And the wire size."""
    described: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None:
            described[field.name] = describe_message(value)[0]
        elif isinstance(value, bytes):
            described[field.name] = _safetensors(value) or {"bytes": len(value)}
        else:
            described[field.name] = type(value).__name__
    return described, message.ByteSize()


def _array(data: bytes) -> dict[str, Any]:
    found = _SHAPE.search(data[:256])
    if found is None:
        return {"bytes": len(data)}
    return {
        "dtype": found[1].decode(),
        "shape": [int(size) for size in re.findall(rb"\d+", found[2])],
        "bytes": len(data),
    }


def _safetensors(data: bytes) -> dict[str, Any] | None:
    """The header of safetensors, or None when these bytes have none."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        return None
    try:
        header = json.loads(data[8 : 8 + length])
        return {
            name: {
                "dtype": about["dtype"],
                "shape": about["shape"],
                "bytes": about["data_offsets"][1] - about["data_offsets"][0],
            }
            for name, about in header.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 8
