import io
import math

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from learning_core.errors import Malformed
from learning_core.params import digest, norm, shapes_of
from learning_core.updates import ClippedUpdate, ModelVersion, Update
from protos.flower_arrays import decode_arrays, encode_arrays, layout
from protos.flower_records import (
    Declined,
    DeviceStatus,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_device_status,
    decode_status_query,
    decode_train_reply,
    decode_train_request,
    encode_device_status,
    encode_status_query,
    encode_train_reply,
    encode_train_request,
)

printable = st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")
names = st.text(printable, min_size=1, max_size=100)
texts = st.text(printable, max_size=200)
counts = st.integers(0, 10**9 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
above_0 = st.floats(min_value=1e-6, max_value=1e6)
versions = st.builds(ModelVersion, counts, counts)
metric_maps = st.dictionaries(names.filter(lambda name: name != "num-examples"), finite, max_size=64)
weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
params = st.dictionaries(names, weights, max_size=4)
queries = st.builds(StatusQuery, names, counts, st.sampled_from(["", "0f" * 32]))
statuses = st.builds(DeviceStatus, st.booleans(), texts, counts, counts, metric_maps)
requests = st.builds(
    TrainRequest, names, counts, versions, params, above_0, finite.map(abs), st.floats(1e-9, 1.0), above_0
)


@st.composite
def updates(draw):
    delta = draw(params)
    update = Update(delta, draw(counts), draw(versions))
    return ClippedUpdate(update, max(norm(delta), 1e-6))


trained = st.builds(Trained, counts, updates(), metric_maps)
declined = st.builds(Declined, counts, texts)


@given(queries)
def test_a_status_query_comes_back_as_it_was(query):
    assert decode_status_query(encode_status_query(query)) == query


@given(statuses)
def test_a_status_comes_back_as_it_was(status):
    assert decode_device_status(encode_device_status(status)) == status


@given(requests)
def test_a_train_request_comes_back_as_it_was(request):
    back = decode_train_request(encode_train_request(request), shapes_of(request.shared))
    assert digest(back.shared) == digest(request.shared)
    assert _without_weights(back) == _without_weights(request)


@given(trained)
def test_what_was_trained_comes_back_as_it_was(reply):
    back = decode_train_reply(encode_train_reply(reply), shapes_of(reply.update.update.delta))
    assert isinstance(back, Trained)
    assert digest(back.update.update.delta) == digest(reply.update.update.delta)
    assert (back.round, back.metrics, back.update.clip_norm) == (reply.round, reply.metrics, reply.update.clip_norm)
    assert back.update.update.num_examples == reply.update.update.num_examples
    assert back.update.update.base_version == reply.update.update.base_version


@given(declined)
def test_declining_comes_back_as_it_was(reply):
    assert decode_train_reply(encode_train_reply(reply), {"any": (1,)}) == reply


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=300), st.binary(max_size=8), st.booleans()
)
odd_configs = st.dictionaries(
    st.sampled_from(["fog", "round", "outcome", "reason", "ready", "base-version", "clip-norm", "x"]), scalars
)
odd_metrics = st.dictionaries(st.sampled_from(["num-examples", "loss", ""]), st.floats() | st.integers(-9, 9))
odd_arrays = st.dictionaries(
    st.sampled_from([layout({"w": (1,)}), "x"]),
    st.builds(
        FlowerArray, st.sampled_from(["float32", "object"]), st.just((1,)), st.just("numpy.ndarray"), st.binary()
    ),
)
odd_contents = st.fixed_dictionaries(
    {},
    optional={
        "config": odd_configs.map(ConfigRecord),
        "metrics": odd_metrics.map(MetricRecord) | odd_configs.map(ConfigRecord),
        "arrays": odd_arrays.map(ArrayRecord),
        "more": st.builds(ConfigRecord),
    },
).map(RecordDict)


@given(odd_contents)
def test_content_that_no_encoder_made_is_refused_with_one_clear_error(content):
    for decode in (
        decode_status_query,
        decode_device_status,
        lambda it: decode_train_request(it, {"w": (1,)}),
        lambda it: decode_train_reply(it, {"w": (1,)}),
    ):
        try:
            decode(content)
        except Malformed:
            continue
        assert set(content) <= {"config", "metrics", "arrays"}


REQUEST = TrainRequest("fog-a", 3, ModelVersion(1, 2), {"w": np.ones(4, np.float32)}, 1.0, 0.5, 0.5, 30.0)
UPDATE = ClippedUpdate(Update({"w": np.full(4, 0.25, np.float32)}, 7, ModelVersion(1, 2)), 1.0)
REPLY = Trained(3, UPDATE, {"loss": 0.5})
SHAPES = {"w": (4,)}
KEY = '{"w":[4]}'


@pytest.mark.parametrize(
    ("record", "key", "value"),
    [
        ("config", "clip-norm", math.nan),
        ("config", "clip-norm", math.inf),
        ("config", "clip-norm", 0.0),
        ("config", "clip-norm", 1),
        ("config", "round", -1),
        ("config", "round", True),
        ("config", "round", 1.0),
        ("config", "outcome", "maybe"),
        ("config", "base-version", "1"),
        ("config", "base-version", "1.2\n"),
        ("config", "surprise", 1),
        ("metrics", "loss", math.nan),
        ("metrics", "loss", math.inf),
        ("metrics", "loss", [0.5]),
        ("metrics", "num-examples", 7.0),
        ("metrics", "x" * 101, 1.0),
        ("metrics", "line\nbreak", 1.0),
        ("metrics", "", 1.0),
    ],
)
def test_one_wrong_entry_is_enough_to_refuse_a_reply(record, key, value):
    content = encode_train_reply(REPLY)
    content[record][key] = value
    with pytest.raises(Malformed):
        decode_train_reply(content, SHAPES)


@pytest.mark.parametrize("record", ["config", "metrics", "arrays"])
def test_a_missing_record_is_refused(record):
    content = encode_train_reply(REPLY)
    del content[record]
    with pytest.raises(Malformed, match="missing"):
        decode_train_reply(content, SHAPES)


def test_more_metrics_than_allowed_are_refused():
    content = encode_device_status(DeviceStatus(True, "", 1, 0, {str(index): 1.0 for index in range(64)}))
    assert len(decode_device_status(content).metrics) == 64
    content["metrics"]["64"] = 1.0
    with pytest.raises(Malformed, match="65 metrics"):
        decode_device_status(content)


@pytest.mark.parametrize("shapes", [{}, {"v": (4,)}, {"w": (2, 2)}, {"w": (4,), "v": (1,)}])
def test_weights_for_another_model_are_refused(shapes):
    with pytest.raises(Malformed, match="weight"):
        decode_train_request(encode_train_request(REQUEST), shapes)


def test_an_update_longer_than_it_states_is_refused():
    content = encode_train_reply(REPLY)
    content["config"]["clip-norm"] = 0.49
    with pytest.raises(Malformed, match="longer"):
        decode_train_reply(content, SHAPES)


def _as_npy(value):
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


GOOD = _as_npy(np.ones(4, np.float32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\0",
        _as_npy(np.ones(4, np.float64)),
        _as_npy(np.ones(4, ">f4")),
        _as_npy(np.ones(5, np.float32)),
        _as_npy(np.ones((2, 2), np.float32)),
        GOOD.replace(b"(4,)", b"(2,)"),
        GOOD.replace(b"(4,)", b"(-4)"),
        GOOD.replace(b"<f4", b"|O8"),
        GOOD.replace(b"False", b"True "),
        GOOD.replace(b"\x01\x00v", b"\x01\x00w"),
        GOOD.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x02"),
        _as_npy(np.array([1, 2, np.nan, 4], np.float32)),
        _as_npy(np.array([1, 2, np.inf, 4], np.float32)),
    ],
)
def test_bytes_that_are_not_those_four_floats_are_refused(data):
    assert decode_arrays(ArrayRecord({KEY: FlowerArray("float32", (4,), "numpy.ndarray", GOOD)}), SHAPES)
    with pytest.raises(Malformed):
        decode_arrays(ArrayRecord({KEY: FlowerArray("float32", (4,), "numpy.ndarray", data)}), SHAPES)


@given(st.integers(0, len(GOOD) - 17), st.integers(0, 255))
def test_no_single_changed_byte_of_a_header_changes_what_is_read(at, byte):
    data = bytearray(GOOD)
    data[at] = byte
    record = ArrayRecord({KEY: FlowerArray("float32", (4,), "numpy.ndarray", bytes(data))})
    try:
        read = decode_arrays(record, SHAPES)["w"]
    except Malformed:
        return
    np.testing.assert_array_equal(read, np.ones(4, np.float32))


def test_weights_travel_as_one_array_that_names_what_it_is_made_of():
    record = encode_arrays({"w": np.ones((2, 3), np.float32), "b": np.zeros((), np.float32)})
    assert list(record) == ['{"b":[],"w":[2,3]}']
    np.testing.assert_array_equal(next(iter(record.values())).numpy(), np.array([0, 1, 1, 1, 1, 1, 1], np.float32))


@given(st.integers(0, 9).filter(lambda size: size != 4))
def test_more_or_fewer_numbers_than_the_key_says_are_refused(size):
    array = FlowerArray("float32", (size,), "numpy.ndarray", _as_npy(np.ones(size, np.float32)))
    with pytest.raises(Malformed, match="not as many"):
        decode_arrays(ArrayRecord({KEY: array}), SHAPES)


def test_weights_over_the_limit_are_refused_before_they_are_read():
    record = encode_arrays({"w": np.ones(4, np.float32)})
    with pytest.raises(Malformed, match="more than the 100 bytes"):
        decode_arrays(record, SHAPES, max_bytes=100)


def test_weights_that_are_not_finite_do_not_leave():
    with pytest.raises(Malformed, match="finite"):
        encode_arrays({"w": np.array([np.nan], np.float32)})


def test_decoded_weights_are_float32_and_free_of_the_message():
    weight = decode_train_request(encode_train_request(REQUEST), SHAPES).shared["w"]
    assert weight.dtype == np.float32
    assert weight.flags.owndata
    assert weight.flags.writeable


def test_flowers_own_averaging_reads_our_replies():
    replies = [
        _reply_message(Trained(1, ClippedUpdate(Update({"w": value}, examples, ModelVersion(1)), 9.0), {"loss": 1.0}))
        for value, examples in ((np.zeros(2, np.float32), 1), (np.full(2, 4.0, np.float32), 3))
    ]
    arrays, metrics = FedAvg().aggregate_train(1, replies)
    np.testing.assert_array_equal(arrays[layout({"w": (2,)})].numpy(), np.full(2, 3.0, np.float32))
    assert metrics["loss"] == 1.0


def _reply_message(reply) -> Message:
    metadata = Metadata(1, "", 2, 1, "question", "", 1e9, 60.0, "train")
    return make_message(metadata=metadata, content=encode_train_reply(reply))


def _without_weights(request):
    return [getattr(request, name) for name in TrainRequest.__slots__ if name != "shared"]
