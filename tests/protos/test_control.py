import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.errors import Malformed
from protos.control import MAX_HEADER_BYTES, encode_frame, read_frame

values = st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=8)
headers = st.dictionaries(st.text(max_size=8).filter(lambda name: name != "bytes"), values, max_size=4)


@given(st.lists(st.tuples(headers, st.binary(max_size=40)), max_size=3))
def test_frames_survive_their_stream_one_after_another(frames):
    stream = io.BytesIO(b"".join(encode_frame(header, payload) for header, payload in frames))
    assert [read_frame(stream.read) for _ in frames] == frames
    assert read_frame(stream.read) is None


@given(headers, st.binary(min_size=1, max_size=40), st.data())
def test_a_frame_that_breaks_off_is_refused(header, payload, data):
    whole = encode_frame(header, payload)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(Malformed):
        read_frame(io.BytesIO(whole[:cut]).read)


@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_frame_are_refused(junk):
    with pytest.raises(Malformed):
        read_frame(io.BytesIO(struct.pack(">I", len(junk)) + junk + b"x").read)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"bytes": -1}', b'{"bytes": 1e9}', b'{"bytes": 999999999999}', b"[" * 9999]
)
def test_a_header_that_promises_nonsense_is_refused(text):
    with pytest.raises(Malformed):
        read_frame(io.BytesIO(struct.pack(">I", len(text)) + text).read)


def test_an_oversized_header_is_refused_before_it_is_read():
    with pytest.raises(Malformed, match="allowed"):
        read_frame(io.BytesIO(struct.pack(">I", MAX_HEADER_BYTES + 1)).read)


def test_a_frame_no_reader_would_take_is_not_written():
    with pytest.raises(ValueError, match="larger"):
        encode_frame({"text": "x" * MAX_HEADER_BYTES})
