"""What fog and device say to each other, as Flower records; the only place that knows their string keys.

Record names are Flower's own defaults ("config", "arrays", "metrics" with "num-examples"), so that its strategies can
read a reply. Everything received is checked before a value is made of it; what does not fit raises `Malformed`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from learning_core.errors import Malformed
from learning_core.params import Params, Shapes, norm
from learning_core.updates import ClippedUpdate, ModelVersion, Update
from protos.flower_arrays import decode_arrays, encode_arrays

QUERY_STATUS = "query.status"
TRAIN = "train"
MAX_METRICS = 64
CLIP_SLACK = 1e-6  # two machines may sum squares in another order


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """How are you? With the newest release the fog has: 0 and "" when it has none."""

    fog: str
    latest_release: int
    manifest_sha256: str


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """Whether the device would train now, why (not), what it serves and how much it has kept."""

    ready: bool
    reason: str
    release: int
    samples_kept: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """Start from `shared`, learn, clip to `clip_norm` and answer within `deadline_s`; what it will cost in privacy."""

    fog: str
    round: int
    base_version: ModelVersion
    shared: Params
    clip_norm: float
    noise_multiplier: float
    sample_rate: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Declined:
    """The device does not take part in this round."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class Trained:
    """What the device learned in this round."""

    round: int
    update: ClippedUpdate
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Field:
    """One entry of a config record: its exact type, and a rule in words and as a test."""

    kind: type
    rule: str
    fits: Callable[[Any], bool]


def _is_text(value: str) -> bool:
    return len(value) <= 200 and value.isprintable()


def _is_sha256(value: str) -> bool:
    return re.fullmatch("([0-9a-f]{64})?", value) is not None


def _is_version(value: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", value) is not None


_NAME = _Field(str, "1 to 100 printable characters", lambda value: 0 < len(value) <= 100 and value.isprintable())
_TEXT = _Field(str, "at most 200 printable characters", _is_text)
_SHA256 = _Field(str, "a sha256 in hex, or empty", _is_sha256)
_VERSION = _Field(str, "a model version like 1.3", _is_version)
_FLAG = _Field(bool, "a yes or no", lambda _: True)
_COUNT = _Field(int, "a count from 0 to 999999999", lambda value: 0 <= value < 10**9)
_ABOVE_0 = _Field(float, "a finite number above 0", lambda value: isfinite(value) and value > 0)
_FROM_0 = _Field(float, "a finite number from 0", lambda value: isfinite(value) and value >= 0)
_SHARE = _Field(float, "a share above 0 and at most 1", lambda value: 0 < value <= 1)
_OUTCOME = _Field(str, "trained or declined", lambda value: value in {"trained", "declined"})

_STATUS_QUERY = {"fog": _NAME, "latest-release": _COUNT, "manifest-sha256": _SHA256}
_DEVICE_STATUS = {"ready": _FLAG, "reason": _TEXT, "release": _COUNT, "samples-kept": _COUNT}
_TRAIN_REQUEST = {
    "fog": _NAME,
    "round": _COUNT,
    "base-version": _VERSION,
    "clip-norm": _ABOVE_0,
    "noise-multiplier": _FROM_0,
    "sample-rate": _SHARE,
    "deadline-s": _ABOVE_0,
}
_DECLINED = {"outcome": _OUTCOME, "round": _COUNT, "reason": _TEXT}
_TRAINED = {"outcome": _OUTCOME, "round": _COUNT, "base-version": _VERSION, "clip-norm": _ABOVE_0}


def encode_status_query(query: StatusQuery) -> RecordDict:
    values = {
        "fog": query.fog,
        "latest-release": int(query.latest_release),
        "manifest-sha256": query.manifest_sha256,
    }
    return RecordDict({"config": ConfigRecord(_checked(values, _STATUS_QUERY))})


def decode_status_query(content: RecordDict) -> StatusQuery:
    """Inverse of `encode_status_query`. Raises Malformed."""
    (config,) = _records(content, config=ConfigRecord)
    values = _checked(config, _STATUS_QUERY)
    return StatusQuery(values["fog"], values["latest-release"], values["manifest-sha256"])


def encode_device_status(status: DeviceStatus) -> RecordDict:
    values = {
        "ready": bool(status.ready),
        "reason": status.reason,
        "release": int(status.release),
        "samples-kept": int(status.samples_kept),
    }
    config = ConfigRecord(_checked(values, _DEVICE_STATUS))
    return RecordDict({"config": config, "metrics": MetricRecord(_checked_metrics(status.metrics))})


def decode_device_status(content: RecordDict) -> DeviceStatus:
    """Inverse of `encode_device_status`. Raises Malformed."""
    config, metrics = _records(content, config=ConfigRecord, metrics=MetricRecord)
    values = _checked(config, _DEVICE_STATUS)
    return DeviceStatus(
        values["ready"], values["reason"], values["release"], values["samples-kept"], _checked_metrics(metrics)
    )


def encode_train_request(request: TrainRequest) -> RecordDict:
    values = {
        "fog": request.fog,
        "round": int(request.round),
        "base-version": str(request.base_version),
        "clip-norm": float(request.clip_norm),
        "noise-multiplier": float(request.noise_multiplier),
        "sample-rate": float(request.sample_rate),
        "deadline-s": float(request.deadline_s),
    }
    return RecordDict(
        {"config": ConfigRecord(_checked(values, _TRAIN_REQUEST)), "arrays": encode_arrays(request.shared)}
    )


def decode_train_request(content: RecordDict, expected: Shapes) -> TrainRequest:
    """Inverse of `encode_train_request`; the adapter has to have the shapes `expected`. Raises Malformed."""
    config, arrays = _records(content, config=ConfigRecord, arrays=ArrayRecord)
    values = _checked(config, _TRAIN_REQUEST)
    return TrainRequest(
        values["fog"],
        values["round"],
        ModelVersion.parse(values["base-version"]),
        decode_arrays(arrays, expected),
        values["clip-norm"],
        values["noise-multiplier"],
        values["sample-rate"],
        values["deadline-s"],
    )


def encode_train_reply(reply: Trained | Declined) -> RecordDict:
    if isinstance(reply, Declined):
        values = {"outcome": "declined", "round": int(reply.round), "reason": reply.reason}
        return RecordDict({"config": ConfigRecord(_checked(values, _DECLINED))})
    update = reply.update.update
    values = {
        "outcome": "trained",
        "round": int(reply.round),
        "base-version": str(update.base_version),
        "clip-norm": float(reply.update.clip_norm),
    }
    metrics = {"num-examples": int(update.num_examples), **_checked_metrics(reply.metrics)}
    return RecordDict(
        {
            "config": ConfigRecord(_checked(values, _TRAINED)),
            "metrics": MetricRecord(metrics),
            "arrays": encode_arrays(update.delta),
        }
    )


def decode_train_reply(content: RecordDict, expected: Shapes) -> Trained | Declined:
    """Inverse of `encode_train_reply`; an update has to have the shapes `expected` and keep to its own clip norm.

    Raises Malformed.
    """
    config = content.get("config")
    if isinstance(config, ConfigRecord) and config.get("outcome") == "declined":
        (config,) = _records(content, config=ConfigRecord)
        values = _checked(config, _DECLINED)
        return Declined(values["round"], values["reason"])
    config, metrics, arrays = _records(content, config=ConfigRecord, metrics=MetricRecord, arrays=ArrayRecord)
    values = _checked(config, _TRAINED)
    others = {name: value for name, value in metrics.items() if name != "num-examples"}
    num_examples = _checked({"num-examples": metrics.get("num-examples")}, {"num-examples": _COUNT})["num-examples"]
    delta = decode_arrays(arrays, expected)
    if norm(delta) > values["clip-norm"] * (1 + CLIP_SLACK):
        raise Malformed("the update is longer than the clip norm it states")
    update = Update(delta, num_examples, ModelVersion.parse(values["base-version"]))
    return Trained(values["round"], ClippedUpdate(update, values["clip-norm"]), _checked_metrics(others))


def _records(content: RecordDict, **kinds: type[Any]) -> tuple[Any, ...]:
    """Exactly these records, each of its kind."""
    if odd := sorted(set(content) ^ kinds.keys()):
        raise Malformed(f"record {odd[0][:80]!r} is {'missing' if odd[0] in kinds else 'unknown'}")
    for name, kind in kinds.items():
        if type(content[name]) is not kind:
            raise Malformed(f"record {name!r} is a {type(content[name]).__name__}, not a {kind.__name__}")
    return tuple(content[name] for name in kinds)


def _checked(values: Mapping[str, Any], fields: Mapping[str, _Field]) -> dict[str, Any]:
    """The same values, when they are exactly these fields and each keeps its rule."""
    if odd := sorted(values.keys() ^ fields.keys()):
        raise Malformed(f"entry {odd[0][:80]!r} is {'missing' if odd[0] in fields else 'unknown'}")
    for name, field in fields.items():
        if type(values[name]) is not field.kind or not field.fits(values[name]):
            raise Malformed(f"entry {name!r} has to be {field.rule}")
    return dict(values)


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    if len(metrics) > MAX_METRICS:
        raise Malformed(f"{len(metrics)} metrics are more than the {MAX_METRICS} allowed")
    for name, value in metrics.items():
        if not _NAME.fits(name) or name == "num-examples":
            raise Malformed(f"a metric's name has to be {_NAME.rule}, and not 'num-examples'")
        if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
            raise Malformed(f"metric {name!r} has to be a finite number")
    return {name: float(value) for name, value in metrics.items()}
