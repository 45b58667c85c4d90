"""JSON lines become files of the spool: a bad one is named, and the stream never outruns the agent."""

import base64
import io
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_agent.__main__ import cli
from edge_agent.drivers.line_source import observe
from edge_agent.drivers.spool_source import SpoolSource
from edge_agent.drivers.spool_writer import MAX_FILES_WAITING
from edge_agent.observation import Expected, parse_observation
from learning_core.errors import Malformed
from protos.codec import decode_tensors

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def line(features, condition=3, **more):
    return json.dumps({"features": features, "condition": condition, **more}).encode() + b"\n"


def packed(features, shape=None):
    shape = list(features.shape) if shape is None else shape
    return {"features": base64.b64encode(features.astype("<f4").tobytes()).decode(), "shape": shape}


def test_a_nested_list_is_read_as_it_stands():
    read = parse_observation(line([[0.5, -1], [2, 0.25]], taken_at_s=17), None)
    assert read.raw.tolist() == [[0.5, -1.0], [2.0, 0.25]]
    assert (read.raw.dtype, read.condition, read.taken_at_s) == (np.float32, 3, 17)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 99))
def test_both_ways_of_writing_features_mean_the_same_bits(rows, condition):
    features = np.array(rows, np.float32)
    nested = parse_observation(line(rows, condition), None)
    raw = parse_observation(json.dumps({**packed(features), "condition": condition}).encode(), None)
    np.testing.assert_array_equal(nested.raw, features)
    np.testing.assert_array_equal(raw.raw, features)
    assert (nested.condition, raw.condition) == (condition, condition)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60)
    | st.fixed_dictionaries(
        {"features": ANY_JSON, "condition": st.integers(-1, 4) | ANY_JSON},
        optional={"shape": ANY_JSON, "taken_at_s": ANY_JSON},
    ).map(lambda tree: json.dumps(tree).encode())
)
def test_whatever_comes_is_an_observation_or_malformed(data):
    try:
        read = parse_observation(data, None)
    except Malformed:
        return
    assert read.raw.dtype == np.float32
    assert read.raw.size > 0
    assert np.isfinite(read.raw).all()
    assert read.condition >= -1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an object"),
        (line([1.0], colour="red"), "no place for 'colour'"),
        (line([]), "empty"),
        (line([[1.0], [1.0, 2.0]]), "equally long"),
        (line([True]), "numbers"),
        (line([1e39]), "finite"),
        (line([10**400]), "float32 can hold"),
        (b'{"features": [NaN], "condition": 1}', "NaN is no number"),
        (line([1.0], condition=True), "condition has to be"),
        (line([1.0], condition=10), r"not within 0\.\.9"),
        (line([1.0], taken_at_s=-1), "taken_at_s has to be"),
        (line([1.0, 2.0]), r"the release takes 1 in a row"),
        (line([1.0], shape=[1]), "leave out shape"),
        (line("AAAA", shape=[1]), "3 bytes of features are not"),
        (line("AAAAAA==", shape=[10**9] * 40), "need their shape"),
        (line("å", shape=[1]), "not base64"),
    ],
)
def test_what_cannot_be_used_says_why(bad, said):
    with pytest.raises(Malformed, match=said):
        parse_observation(bad, Expected((1,), 10))


def handed_on(spool):
    files = sorted(spool.glob("*.safetensors"))
    return [decode_tensors(path.read_bytes()) for path in files]


def test_a_bad_line_is_named_and_the_others_arrive_in_order(tmp_path):
    refused = []
    stream = io.BytesIO(line([0.0]) + b"\n" + b"nonsense\n" + line([1.0]) + line([2.0, 2.0]) + line([3.0], 1)[:-1])
    told = observe(stream, tmp_path, 1 << 20, None, lambda *why: refused.append(why), pytest.fail)
    assert told == (4, 1)
    assert [number for number, _ in refused] == [3]
    files = handed_on(tmp_path)
    assert [each["features"].tolist() for each in files] == [[[0.0], [1.0]], [[2.0, 2.0]], [[3.0]]]
    assert files[2]["conditions"].tolist() == [1]
    assert SpoolSource(tmp_path, 1 << 20).load(min(p.name for p in tmp_path.glob("*.s*")), (1,), 4) is not None


def test_a_line_without_end_is_one_bad_line_and_takes_no_memory(tmp_path):
    refused = []
    stream = io.BytesIO(b"[" + b"1," * 50_000 + b"\n" + line([1.0]))
    assert observe(stream, tmp_path, 8192, None, lambda *why: refused.append(why), pytest.fail) == (1, 1)
    assert refused[0][0] == 1
    assert "longer than" in refused[0][1]


def test_it_waits_while_the_agent_has_enough_to_do_and_goes_on_when_it_has_not(tmp_path):
    shapes = [line([0.0] * (1 + at % 2)) for at in range(30)]  # every line a file of its own
    waited = []
    feeder = threading.Thread(
        target=observe, args=(io.BytesIO(b"".join(shapes)), tmp_path, 1 << 20, None, pytest.fail, waited.append)
    )
    feeder.start()
    most = taken = 0
    while feeder.is_alive() or handed_on(tmp_path):
        there = sorted(tmp_path.glob("*.safetensors"))
        most = max(most, len(there))
        if (waited and len(there) == MAX_FILES_WAITING) or not feeder.is_alive():
            taken += len(there)
            for path in there:
                path.unlink()
    assert (taken, most) == (30, MAX_FILES_WAITING)
    assert waited == [MAX_FILES_WAITING]


def test_the_command_says_by_its_status_whether_a_line_was_refused(tmp_path):
    call = ["observe", "--state", str(tmp_path)]
    done = CliRunner().invoke(cli, call, input=line([1.0]))
    assert (done.exit_code, done.stdout) == (0, "1 observations handed on, 0 lines refused\n")
    done = CliRunner().invoke(cli, call, input=line([1.0]) + b"x\n")
    assert done.exit_code == 1
    assert "line 2 is refused: it is not JSON" in done.stderr
    assert CliRunner().invoke(cli, call, input=b"").exit_code == 0
