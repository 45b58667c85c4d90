"""A release's golden file, whatever stands in it: a golden set that can be measured with, or one sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in_release import make_release

from edge_agent.examination import golden_set
from edge_agent.values import Golden
from learning_core.errors import Malformed
from protos.codec import decode_tensors, encode_tensors

arrays = st.builds(
    np.full,
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([0, 1, 255]),
    st.sampled_from(["f4", "i8", "u1"]),
)
odd_numbers = st.sampled_from([np.nan, np.inf, -np.inf, 1e38, -1e38])


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release's manifest, and the bytes of its golden file."""
    folder = tmp_path_factory.mktemp("golden") / "1"
    return make_release(folder), (folder / "golden.safetensors").read_bytes()


def read_or_refused(data, manifest):
    """What is wrong with it in a sentence, "" when nothing is."""
    try:
        found = golden_set(decode_tensors(data), manifest)
    except Malformed as error:
        return str(error)
    assert isinstance(found, Golden)
    return ""


def test_the_whole_file_is_a_golden_set(release):
    manifest, whole = release
    assert read_or_refused(whole, manifest) == ""


@settings(max_examples=120, deadline=None)
@given(data=st.data(), value=arrays | st.none())
def test_a_tensor_that_is_another_one_or_missing_is_taken_or_refused_in_one_sentence(release, data, value):
    manifest, whole = release
    tensors = decode_tensors(whole)
    name = data.draw(st.sampled_from([*sorted(tensors), "more"]))
    changed = {each: kept for each, kept in tensors.items() if each != name} | ({} if value is None else {name: value})
    assert "\n" not in read_or_refused(encode_tensors(changed), manifest)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), number=odd_numbers)
def test_a_number_that_is_none_is_refused(release, data, number):
    manifest, whole = release
    tensors = {name: value.copy() for name, value in decode_tensors(whole).items()}
    reals = sorted(name for name, value in tensors.items() if value.dtype == np.float32)
    name = data.draw(st.sampled_from(reals))
    tensors[name].flat[data.draw(st.integers(0, tensors[name].size - 1))] = number
    said = read_or_refused(encode_tensors(tensors), manifest)
    assert np.isfinite(number) or said


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_turned_bit_or_a_lost_end_is_read_or_refused_in_one_sentence(release, data):
    manifest, whole = release
    at, cut = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, len(whole) - 1))
    spoiled = bytearray(whole)
    spoiled[at] ^= 1 << data.draw(st.integers(0, 7))
    for each in (bytes(spoiled), whole[:cut]):
        assert "\n" not in read_or_refused(each, manifest)
