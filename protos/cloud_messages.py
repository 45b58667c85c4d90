"""Between fog and cloud: protobuf messages <-> our values, believed only when every field is as it has to be.

Fields this version does not know are refused too: nothing crosses a tier that nobody looked at.
"""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from learning_core.errors import Malformed
from learning_core.params import Params, Shapes
from learning_core.updates import Aggregate, ModelVersion
from protos import dewfall_pb2 as pb
from protos.codec import decode_params, encode_params
from protos.messages import nothing_unknown
from protos.release import MANIFEST, SIGNATURE, is_release_file

MAX_ADAPTER_BYTES = 8 << 20
MAX_MESSAGE_BYTES = MAX_ADAPTER_BYTES + (64 << 10)
MAX_CHUNK_BYTES = 1 << 20
MAX_REASON = 200
_MAX_INDEX = 10**9 - 1  # of releases, steps and rounds
_MAX_COHORT = 1e7
_FOG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A fog binds its credential to a one-time token. `credential_sha256`: 32 bytes."""

    token: str
    fog: str
    credential_sha256: bytes


class AckVerdict(StrEnum):
    """What became of an aggregate: counted now, counted before, or never to be counted."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Ack:
    """The cloud's answer to one aggregate. `shared`: the newest consolidated version."""

    verdict: AckVerdict
    reason: str
    shared: ModelVersion


@dataclass(frozen=True, slots=True)
class Latest:
    """What the cloud has now. `adapter` is None when the asker's version is as new as `shared`; release 0: nothing."""

    release: int
    manifest_sha256: str  # 64 hex digits, "" when nothing is published
    shared: ModelVersion
    adapter: Params | None
    distilling: bool = False  # the next release is being made: an aggregate for this one would come too late


@dataclass(frozen=True, slots=True)
class FileRequest:
    """Which file of which release, from which byte on."""

    release: int
    name: str
    offset: int = 0


def is_fog_name(name: str) -> bool:
    """Whether `name` can be a fog's: 1 to 64 letters, digits, dots, dashes and underscores."""
    return bool(_FOG.fullmatch(name))


def encode_enrolment(enrolment: Enrolment) -> pb.EnrollRequest:
    return pb.EnrollRequest(token=enrolment.token, fog=enrolment.fog, credential_sha256=enrolment.credential_sha256)


def decode_enrolment(message: pb.EnrollRequest) -> Enrolment:
    """Raises Malformed."""
    nothing_unknown(message)
    if not _TOKEN.fullmatch(message.token):
        raise Malformed("the token does not look like one; ask the cloud for a new one with `enroll-token`")
    if len(message.credential_sha256) != 32:
        raise Malformed("the credential's digest is not 32 bytes long")
    return Enrolment(message.token, _fog(message.fog), message.credential_sha256)


def encode_aggregate(aggregate: Aggregate) -> pb.AggregateMessage:
    return pb.AggregateMessage(
        fog=aggregate.fog,
        round=aggregate.round,
        base_version=_version_message(aggregate.base_version),
        expected_cohort=aggregate.expected_cohort,
        delta=encode_params(aggregate.delta),
    )


def decode_aggregate(message: pb.AggregateMessage, expected: Shapes) -> Aggregate:
    """`expected`: what is federated on the aggregate's release. Raises Malformed."""
    nothing_unknown(message)
    if not (math.isfinite(message.expected_cohort) and 0 < message.expected_cohort <= _MAX_COHORT):
        raise Malformed(f"the expected cohort has to be a number of devices above 0, not {message.expected_cohort}")
    return Aggregate(
        delta=decode_params(message.delta, expected, MAX_ADAPTER_BYTES),
        expected_cohort=message.expected_cohort,
        base_version=aggregate_version(message),
        fog=_fog(message.fog),
        round=_index(message.round, "round"),
    )


def aggregate_version(message: pb.AggregateMessage) -> ModelVersion:
    """The version alone: it says which shapes `decode_aggregate` has to expect. Raises Malformed."""
    if not message.HasField("base_version"):
        raise Malformed("the aggregate does not say which version it changes")
    return _version(message.base_version)


def encode_ack(ack: Ack) -> pb.Ack:
    return pb.Ack(
        verdict=ack.verdict.name,
        reason=ack.reason[:MAX_REASON],
        shared=_version_message(ack.shared),
    )


def decode_ack(message: pb.Ack) -> Ack:
    """Raises Malformed."""
    nothing_unknown(message)
    try:
        verdict = AckVerdict[pb.Ack.Verdict.Name(message.verdict)]
    except (KeyError, ValueError) as error:
        raise Malformed(f"the acknowledgement has no verdict this version knows: {message.verdict}") from error
    if len(message.reason) > MAX_REASON or not message.HasField("shared"):
        raise Malformed("the acknowledgement has an overlong reason or no version")
    return Ack(verdict, message.reason, _version(message.shared))


def encode_poll(known: ModelVersion) -> pb.PollRequest:
    return pb.PollRequest(known=_version_message(known))


def decode_poll(message: pb.PollRequest) -> ModelVersion:
    """Raises Malformed."""
    nothing_unknown(message)
    return _version(message.known)


def encode_latest(latest: Latest) -> pb.PollReply:
    return pb.PollReply(
        latest_release=latest.release,
        manifest_sha256=bytes.fromhex(latest.manifest_sha256),
        shared=_version_message(latest.shared),
        shared_adapter=b"" if latest.adapter is None else encode_params(latest.adapter),
        distilling=latest.distilling,
    )


def decode_latest(message: pb.PollReply, expected: Shapes | None = None) -> Latest:
    """`expected`: shapes of the adapter, when the asker has that release already. Raises Malformed."""
    nothing_unknown(message)
    release, shared = _index(message.latest_release, "release"), _version(message.shared)
    if len(message.manifest_sha256) != (32 if release else 0):
        raise Malformed("the digest of the newest manifest is not 32 bytes long")
    if shared.release > release:
        raise Malformed(f"the cloud offers an adapter for release {shared.release}, but has only release {release}")
    adapter = None
    if message.shared_adapter:
        adapter = decode_params(message.shared_adapter, expected, MAX_ADAPTER_BYTES)
    return Latest(release, message.manifest_sha256.hex(), shared, adapter, message.distilling)


def encode_file_request(request: FileRequest) -> pb.FileRequest:
    return pb.FileRequest(release=request.release, name=request.name, offset=request.offset)


def decode_file_request(message: pb.FileRequest) -> FileRequest:
    """Raises Malformed, also for a name that would lead out of the release's folder."""
    nothing_unknown(message)
    if message.name not in {MANIFEST, SIGNATURE} and not is_release_file(message.name):
        raise Malformed(f"{message.name[:80]!r} is not the name of a file of a release")
    if message.offset > 1 << 40:
        raise Malformed("the offset is past the end of any file")
    return FileRequest(_index(message.release, "release"), message.name, message.offset)


def decode_chunk(message: pb.Chunk) -> bytes:
    """Raises Malformed."""
    nothing_unknown(message)
    if not 0 < len(message.data) <= MAX_CHUNK_BYTES:
        raise Malformed(f"a chunk of {len(message.data)} bytes; 1 to {MAX_CHUNK_BYTES} are allowed")
    return message.data


def _version_message(version: ModelVersion) -> pb.Version:
    return pb.Version(release=version.release, step=version.step)


def _version(message: pb.Version) -> ModelVersion:
    return ModelVersion(_index(message.release, "release"), _index(message.step, "step"))


def _index(value: int, what: str) -> int:
    if value > _MAX_INDEX:
        raise Malformed(f"{value} is not a possible {what}")
    return value


def _fog(name: str) -> str:
    if not is_fog_name(name):
        raise Malformed(f"{name[:80]!r} is not a fog's name: 1 to 64 letters, digits, dots, dashes and underscores")
    return name
