import contextlib
import dataclasses

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from learning_core.errors import Malformed
from protos import offload_pb2 as pb
from protos.offload_jobs import (
    MAX_PIECE_BYTES,
    Blob,
    JobHeader,
    JobState,
    Kind,
    Offer,
    ResultHeader,
    Standing,
    blob_of,
    collect,
    named,
    pieces_of,
)
from protos.offload_messages import (
    MAX_ADAPTER_BYTES,
    MAX_BATCH,
    MAX_REASON,
    MAX_SAMPLES_BYTES,
    MAX_STEPS,
    decode_data,
    decode_job,
    decode_offer,
    decode_offer_query,
    decode_query,
    decode_result,
    decode_state,
    encode_job,
    encode_job_data,
    encode_offer,
    encode_offer_query,
    encode_query,
    encode_result,
    encode_result_data,
    encode_state,
)

digests = st.binary(min_size=32, max_size=32)
releases = st.integers(1, 10**9 - 1)
kinds = st.sampled_from(Kind)
reasons = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=MAX_REASON)


def blobs(most):
    return st.builds(Blob, st.integers(1, most), digests)


@st.composite
def headers(draw):
    kind = draw(kinds)
    header = JobHeader(
        b"",
        draw(releases),
        draw(digests).hex(),
        kind,
        0.0 if kind is Kind.RAW else draw(st.floats(1e-6, 1e6)),
        draw(st.integers(1, MAX_STEPS)),
        draw(st.integers(1, MAX_BATCH)),
        draw(st.floats(1e-9, 10)),
        draw(st.integers(0, 2**32 - 1)),
        draw(blobs(MAX_SAMPLES_BYTES)),
        draw(blobs(MAX_ADAPTER_BYTES)),
    )
    return named(header)


HEADER = named(
    JobHeader(b"", 1, "ab" * 32, Kind.LATENTS, 1.5, 60, 32, 0.015, 7, blob_of(b"samples"), blob_of(b"start"))
)


@given(headers())
def test_a_job_survives_the_wire(header):
    assert decode_job(pb.JobPiece.FromString(encode_job(header).SerializeToString())) == header


@given(st.builds(ResultHeader, digests, st.integers(1, MAX_STEPS), st.floats(-1e9, 1e9), blobs(MAX_ADAPTER_BYTES)))
def test_a_result_survives_the_wire(result):
    assert decode_result(pb.ResultPiece.FromString(encode_result(result).SerializeToString())) == result


@given(st.builds(JobState, st.sampled_from(Standing), st.integers(0, MAX_STEPS), reasons))
def test_how_a_job_stands_survives_the_wire(state):
    assert decode_state(pb.JobState.FromString(encode_state(state).SerializeToString())) == state


@given(st.builds(Offer, st.frozensets(kinds), reasons), releases, digests)
def test_an_offer_and_its_query_survive_the_wire(offer, release, digest):
    assert decode_offer(encode_offer(offer)) == offer
    assert decode_offer_query(encode_offer_query(release, digest.hex())) == (release, digest.hex())
    assert decode_query(encode_query(digest)) == digest


@given(headers(), st.integers(0, 2**32 - 1))
def test_jobs_that_differ_have_different_names(header, seed):
    other = named(dataclasses.replace(header, seed=seed))
    assert (other.job == header.job) == (seed == header.seed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job", b"\1" * 32),
        ("job", b"short"),
        ("release", 0),
        ("manifest_sha256", b"short"),
        ("kind", 0),
        ("kind", 9),
        ("kind", pb.RAW),  # with noise
        ("noise_deviation", -1.0),
        ("noise_deviation", float("nan")),
        ("noise_deviation", 0.0),
        ("steps", 0),
        ("steps", MAX_STEPS + 1),
        ("batch", 0),
        ("batch", MAX_BATCH + 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("seed", 8),  # another job than its name says
    ],
)
def test_one_odd_field_of_a_job_is_enough_to_refuse_it(field, value):
    message = encode_job(HEADER)
    setattr(message.header, field, value)
    with pytest.raises(Malformed):
        decode_job(message)


@pytest.mark.parametrize(("size", "digest"), [(0, b"\0" * 32), (MAX_SAMPLES_BYTES + 1, b"\0" * 32), (5, b"\0" * 31)])
def test_contents_are_announced_with_a_possible_size_and_a_sum(size, digest):
    message = encode_job(HEADER)
    message.header.samples.CopyFrom(pb.Blob(size=size, sha256=digest))
    with pytest.raises(Malformed):
        decode_job(message)


def test_a_field_of_another_version_is_refused():
    for odd, decode in (
        (pb.JobState.FromString(b"\x08\x03\xf8\x07\x01"), decode_state),
        (pb.JobQuery.FromString(encode_query(b"\1" * 32).SerializeToString() + b"\xf8\x07\x01"), decode_query),
    ):
        with pytest.raises(Malformed, match="does not know"):
            decode(odd)


@pytest.mark.parametrize("message", [pb.JobPiece(), encode_job_data(b""), encode_job_data(bytes(MAX_PIECE_BYTES + 1))])
def test_a_piece_is_neither_empty_nor_longer_than_a_mebibyte(message):
    with pytest.raises(Malformed, match="pieces of 1 to"):
        decode_data(message)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_contents_come_back_as_they_were_announced(contents):
    assert collect(pieces_of(*contents), [blob_of(content) for content in contents]) == contents


def test_contents_of_several_pieces_come_back_whole():
    large = bytes(range(256)) * (5 << 10)
    assert [len(piece) for piece in pieces_of(large, b"x")] == [1 << 20, 256 << 10, 1]
    assert collect(pieces_of(large, b"x"), [blob_of(large), blob_of(b"x")]) == [large, b"x"]


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=5), st.binary(min_size=1, max_size=9))
def test_contents_that_are_not_what_was_announced_are_refused(pieces, content):
    if b"".join(pieces) == content:
        assert collect(pieces, [blob_of(content)]) == [content]
    else:
        with pytest.raises(Malformed):
            collect(pieces, [blob_of(content)])


def test_no_more_is_held_than_was_announced():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield bytes(MAX_PIECE_BYTES)

    with pytest.raises(Malformed):
        collect(endless(), [blob_of(b"five!")])
    assert len(taken) == 1


DECODERS = (
    (pb.OfferQuery, decode_offer_query),
    (pb.OfferReply, decode_offer),
    (pb.JobPiece, decode_job),
    (pb.JobPiece, decode_data),
    (pb.JobQuery, decode_query),
    (pb.JobState, decode_state),
    (pb.ResultPiece, decode_result),
    (pb.ResultPiece, decode_data),
)
WHOLE = (
    encode_job(HEADER).SerializeToString(),
    encode_result(ResultHeader(b"\1" * 32, 5, 0.1, blob_of(b"a"))).SerializeToString(),
    encode_result_data(b"abc").SerializeToString(),
    encode_state(JobState(Standing.BUSY, 3, "later")).SerializeToString(),
    encode_offer(Offer(frozenset(Kind))).SerializeToString(),
)


@given(st.sampled_from(DECODERS), st.sampled_from(WHOLE) | st.binary(max_size=200), st.data())
def test_bytes_of_anybody_are_a_value_or_malformed_and_nothing_else(decoder, data, choices):
    """Also of our own messages with some bytes changed."""
    kind, decode = decoder
    spoilt = bytearray(data)
    for _ in range(choices.draw(st.integers(0, 3))):
        if spoilt:
            spoilt[choices.draw(st.integers(0, len(spoilt) - 1))] = choices.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed, DecodeError):
        decode(kind.FromString(bytes(spoilt)))
