import contextlib
import hashlib
import sys

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from learning_core.errors import Malformed
from learning_core.params import digest, shapes_of
from learning_core.updates import Aggregate, ModelVersion
from protos import dewfall_pb2 as pb
from protos.cloud_messages import (
    MAX_ADAPTER_BYTES,
    MAX_CHUNK_BYTES,
    MAX_REASON,
    Ack,
    AckVerdict,
    Enrolment,
    FileRequest,
    Latest,
    aggregate_version,
    decode_ack,
    decode_aggregate,
    decode_chunk,
    decode_enrolment,
    decode_file_request,
    decode_latest,
    decode_poll,
    encode_ack,
    encode_aggregate,
    encode_enrolment,
    encode_file_request,
    encode_latest,
    encode_poll,
)
from protos.codec import encode_params, encode_tensors

SHAPES = {"a.lora_B": (4, 2), "label_rows": (3,)}
AGGREGATE = Aggregate(
    {"a.lora_B": np.ones((4, 2), np.float32), "label_rows": np.zeros(3, np.float32)},
    2.4,
    ModelVersion(1, 3),
    "fog-a",
    7,
)

indexes = st.integers(0, 10**9 - 1)
versions = st.builds(ModelVersion, indexes, indexes)
fogs = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
adapters = st.fixed_dictionaries(
    {name: hnp.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)) for name, shape in SHAPES.items()}
)


@given(st.builds(Aggregate, adapters, st.floats(1e-3, 1e7), versions, fogs, indexes))
def test_an_aggregate_survives_the_wire(aggregate: Aggregate):
    sent = encode_aggregate(aggregate).SerializeToString()
    got = decode_aggregate(pb.AggregateMessage.FromString(sent), SHAPES)
    assert digest(got.delta) == digest(aggregate.delta)
    assert (got.expected_cohort, got.base_version, got.fog, got.round) == (
        aggregate.expected_cohort,
        aggregate.base_version,
        aggregate.fog,
        aggregate.round,
    )


def changed(**fields: object) -> pb.AggregateMessage:
    message = encode_aggregate(AGGREGATE)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "fields",
    [
        {"fog": ""},
        {"fog": "fog a"},
        {"fog": "../a"},
        {"fog": "f" * 65},
        {"fog": "fög"},
        {"round": 1 << 60},
        {"expected_cohort": 0.0},
        {"expected_cohort": -1.0},
        {"expected_cohort": float("nan")},
        {"expected_cohort": float("inf")},
        {"expected_cohort": 1e300},
        {"delta": b""},
        {"delta": b"\x80\x04pickle."},
        {"delta": encode_params({"a.lora_B": np.ones((4, 2), np.float32)})},
        {"delta": encode_params(dict(AGGREGATE.delta) | {"more": np.ones(1, np.float32)})},
        {"delta": encode_params(dict(AGGREGATE.delta) | {"label_rows": np.ones(4, np.float32)})},
        {"delta": encode_tensors(dict(AGGREGATE.delta) | {"label_rows": np.ones(3, np.int64)})},
        {"delta": encode_tensors(dict(AGGREGATE.delta) | {"label_rows": np.full(3, np.nan, np.float32)})},
        {"delta": bytes(MAX_ADAPTER_BYTES + 1)},
    ],
)
def test_an_odd_aggregate_is_refused(fields: dict[str, object]):
    assert decode_aggregate(changed(), SHAPES).fog == "fog-a"
    with pytest.raises(Malformed):
        decode_aggregate(changed(**fields), SHAPES)


def test_an_aggregate_without_or_with_an_impossible_version_is_refused():
    for version in (None, pb.Version(release=1 << 31), pb.Version(release=1, step=1 << 31)):
        message = changed()
        message.ClearField("base_version")
        if version:
            message.base_version.CopyFrom(version)
        with pytest.raises(Malformed):
            aggregate_version(message)
        with pytest.raises(Malformed):
            decode_aggregate(message, SHAPES)


@given(st.integers(6, 500), st.binary(min_size=1, max_size=20))
def test_nothing_is_smuggled_in_fields_nobody_reads(number: int, hidden: bytes):
    tag = number << 3 | 2
    varint = bytes([tag & 0x7F | 0x80, tag >> 7]) if tag > 0x7F else bytes([tag])
    extra = varint + bytes([len(hidden)]) + hidden
    for message, decode in (
        (encode_aggregate(AGGREGATE), lambda got: decode_aggregate(got, SHAPES)),
        (encode_ack(Ack(AckVerdict.ACCEPTED, "", ModelVersion(1))), decode_ack),
        (encode_latest(Latest(0, "", ModelVersion(0), None)), decode_latest),
        (encode_poll(ModelVersion(1)), decode_poll),
    ):
        with pytest.raises(Malformed, match="does not know"):
            decode(type(message).FromString(message.SerializeToString() + extra))


def test_a_field_hidden_in_a_nested_message_is_found_too():
    message = changed()
    message.base_version.MergeFromString(b"\x7a\x01x")
    with pytest.raises(Malformed, match="does not know"):
        decode_aggregate(message, SHAPES)


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_one_clear_error(data: bytes):
    for kind, decode in (
        (pb.AggregateMessage, lambda message: decode_aggregate(message, SHAPES)),
        (pb.EnrollRequest, decode_enrolment),
        (pb.Ack, decode_ack),
        (pb.PollReply, decode_latest),
        (pb.FileRequest, decode_file_request),
    ):
        message = kind()
        with contextlib.suppress(DecodeError, Malformed):
            message.MergeFromString(data)
            decode(message)


@given(st.builds(Ack, st.sampled_from(AckVerdict), st.text(max_size=MAX_REASON), versions))
def test_an_acknowledgement_survives_the_wire(ack: Ack):
    assert decode_ack(pb.Ack.FromString(encode_ack(ack).SerializeToString())) == ack


def test_a_long_reason_is_cut_by_the_sender_and_refused_by_the_reader():
    ack = Ack(AckVerdict.REFUSED, "x" * 900, ModelVersion(1))
    assert decode_ack(encode_ack(ack)).reason == "x" * MAX_REASON
    message = encode_ack(ack)
    message.reason = "x" * 900
    with pytest.raises(Malformed):
        decode_ack(message)


@pytest.mark.parametrize("verdict", [0, 4, 99])
def test_an_acknowledgement_without_a_known_verdict_is_refused(verdict: int):
    message = encode_ack(Ack(AckVerdict.ACCEPTED, "", ModelVersion(1)))
    message.verdict = verdict  # type: ignore[assignment]
    with pytest.raises(Malformed, match="no verdict"):
        decode_ack(message)


@given(versions)
def test_a_poll_survives_the_wire(known: ModelVersion):
    assert decode_poll(encode_poll(known)) == known


@given(st.integers(1, 1000), indexes, st.none() | adapters)
def test_the_latest_state_survives_the_wire(release: int, step: int, adapter: dict[str, np.ndarray] | None):
    sha = hashlib.sha256(b"manifest").hexdigest()
    latest = Latest(release, sha, ModelVersion(release, step), adapter)
    got = decode_latest(encode_latest(latest), SHAPES)
    assert (got.release, got.manifest_sha256, got.shared) == (release, sha, latest.shared)
    assert (got.adapter is None) == (adapter is None)
    if adapter is not None and got.adapter is not None:
        assert digest(got.adapter) == digest(adapter)


def test_a_latest_state_that_contradicts_itself_is_refused():
    sha = "ab" * 32
    good = encode_latest(Latest(2, sha, ModelVersion(2, 1), AGGREGATE.delta))
    assert shapes_of(decode_latest(good, SHAPES).adapter or {}) == SHAPES
    for fields in (
        {"latest_release": 0},
        {"latest_release": 1},
        {"manifest_sha256": b"short"},
        {"manifest_sha256": b""},
        {"shared_adapter": b"junk"},
    ):
        message = pb.PollReply()
        message.CopyFrom(good)
        for name, value in fields.items():
            setattr(message, name, value)
        with pytest.raises(Malformed):
            decode_latest(message, SHAPES)
    with pytest.raises(Malformed, match="shape"):
        decode_latest(good, SHAPES | {"label_rows": (9,)})


@given(st.from_regex(r"[A-Za-z0-9_-]{16,128}", fullmatch=True), fogs, st.binary(min_size=32, max_size=32))
def test_an_enrolment_survives_the_wire(token: str, fog: str, credential: bytes):
    enrolment = Enrolment(token, fog, credential)
    assert decode_enrolment(encode_enrolment(enrolment)) == enrolment


@pytest.mark.parametrize(
    "enrolment",
    [
        Enrolment("", "fog-a", bytes(32)),
        Enrolment("short", "fog-a", bytes(32)),
        Enrolment("t" * 129, "fog-a", bytes(32)),
        Enrolment("t" * 20, "fog a", bytes(32)),
        Enrolment("t" * 20, "fog-a", bytes(31)),
        Enrolment("t" * 20, "fog-a", b""),
    ],
)
def test_an_odd_enrolment_is_refused(enrolment: Enrolment):
    with pytest.raises(Malformed):
        decode_enrolment(encode_enrolment(enrolment))


@pytest.mark.parametrize("name", ["student.onnx", "manifest.json", "manifest.sig", "golden.safetensors"])
def test_files_of_a_release_may_be_asked_for(name: str):
    request = FileRequest(3, name, 1 << 20)
    assert decode_file_request(encode_file_request(request)) == request


@pytest.mark.parametrize("name", ["", "..", "../release.key", "/etc/passwd", "a/b", "a\\b", ".lock", "x" * 200, "a\0b"])
def test_no_other_file_may_be_asked_for(name: str):
    with pytest.raises(Malformed):
        decode_file_request(encode_file_request(FileRequest(1, name)))


def test_chunks_are_bounded():
    assert decode_chunk(pb.Chunk(data=b"x" * MAX_CHUNK_BYTES)) == b"x" * MAX_CHUNK_BYTES
    for data in (b"", b"x" * (MAX_CHUNK_BYTES + 1)):
        with pytest.raises(Malformed):
            decode_chunk(pb.Chunk(data=data))


def test_protobuf_runs_on_its_compiled_parser():
    """The pure Python parser recurses without limit (CVE-2025-4565)."""
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb", sys.version
