"""Files a person or a disk may spoil: whatever stands in them is a value of ours or one clear error of ours."""

import json
import math
from copy import deepcopy
from datetime import date
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cloud_server.config import Settings as CloudSettings
from edge_agent.config import AgentSettings
from fog_aggregator.config import FogSettings
from learning_core.errors import ConfigError, Malformed
from learning_core.samples import Batch
from protos.codec import encode_tensors
from protos.learner_records import (
    Checkpoint,
    Failed,
    FitCommand,
    Progress,
    decode_checkpoint,
    decode_line,
    decode_samples,
    encode_checkpoint,
    encode_line,
    encode_samples,
)
from protos.release import FileSum, Manifest, decode_manifest, encode_manifest, usual
from protos.settings import load

MODELS = {"edge": AgentSettings, "fog": FogSettings, "cloud": CloudSettings}
quiet = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["/", "", ".", "a:b", "1:2", "x" * 500, "127.0.0.1:99999", "ab" * 32, "22:00-07:00", "\0", "\ud800"]
    )
    | st.just(date(2026, 1, 1))
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places_in(model, path=()):
    """Every table and every setting of a settings model, as paths."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from places_in(field.annotation, (*path, name))


def read_or_refused(read, refusal):
    """What is read, None when that is refused in one sentence."""
    try:
        return read()
    except refusal as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 2000
    return None


def put(tree, path, value):
    *way, last = path
    for name in way:
        inner = tree.get(name)
        tree[name] = inner if isinstance(inner, dict) else {}
        tree = tree[name]
    tree[last] = value


@pytest.mark.parametrize("tier", MODELS)
@quiet
@given(data=st.data())
def test_whatever_stands_at_a_setting_is_taken_or_named_in_one_sentence(tier, data, tmp_path):
    model = MODELS[tier]
    values = {}
    for path in data.draw(st.lists(st.sampled_from(sorted(places_in(model))), min_size=1, max_size=6)):
        put(values, path, data.draw(trees))
    text = toml_of(values)
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    environ = data.draw(st.dictionaries(st.sampled_from(sorted(environ_of(model))), st.text(max_size=12), max_size=2))
    found = read_or_refused(lambda: load(model, tmp_path / "settings.toml", environ, "D"), ConfigError)
    assert found is None or isinstance(found, model)


def environ_of(model):
    return ["__".join(("D", *path)).upper() for path in places_in(model)] + ["D__NAME__MORE", "D__"]


@pytest.mark.parametrize("tier", MODELS)
@quiet
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(data=b"a = " + b"[" * 5000)
@example(data=b"a." * 5000 + b"b = 1")
def test_a_settings_file_of_any_bytes_is_read_or_refused_in_one_sentence(tier, data, tmp_path):
    (tmp_path / "settings.toml").write_bytes(data)
    found = read_or_refused(lambda: load(MODELS[tier], tmp_path / "settings.toml"), ConfigError)
    assert found is None or tier == "cloud"  # all it has to know has a default


def toml_of(tree):
    """A tree as TOML, of what TOML can say."""

    def value_of(value):
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float):
            return str(value) if isinstance(value, int) or math.isnan(value) else repr(value)
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, list):
            return f"[{', '.join(value_of(each) for each in value)}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{value_of(str(name))} = {value_of(each)}' for name, each in value.items())}}}"
        return json.dumps("" if value is None else value.encode("utf-8", "ignore").decode())

    return "\n".join(f"{value_of(name)} = {value_of(each)}" for name, each in tree.items())


SOUND = encode_manifest(
    Manifest(
        version=1,
        family="flow_image",
        model={"depth": 3},
        rank=8,
        alpha=16.0,
        adapter_shapes={"label_rows": (5, 64)},
        steps=10,
        guidance=1.5,
        known_conditions=(0, 1),
        num_conditions=10,
        max_fidelity_drop=0.02,
        max_kid_rise=0.2,
        max_out_of_range=0.05,
        variants=(usual(10, 1.5),),
        files={"student.onnx": FileSum("0" * 64, 5)},
    )
)


def paths_of(tree, path=()):
    """Every place in a JSON tree."""
    yield path
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from paths_of(tree[key], (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    tree = deepcopy(tree)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


json_trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(paths_of(json.loads(SOUND)))), json_trees)
def test_a_manifest_with_anything_at_any_place_is_a_manifest_of_the_same_bytes_or_refused(path, value):
    tree = replaced(json.loads(SOUND), path, value)
    data = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    found = read_or_refused(lambda: decode_manifest(data), Malformed)
    assert found is None or encode_manifest(found) == data


LINES = (
    FitCommand("/job", "/release", 10, 60, 32, 0.01, 7, 2),
    Progress(10, 0.5, 100.0),
    Failed("no space"),
)


@settings(max_examples=60, deadline=None)
@given(st.data(), json_trees)
def test_a_line_with_anything_at_any_place_is_a_message_or_refused(data, value):
    tree = json.loads(encode_line(data.draw(st.sampled_from(LINES))))
    line = json.dumps(replaced(tree, data.draw(st.sampled_from(list(paths_of(tree)))), value)).encode() + b"\n"
    found = read_or_refused(lambda: decode_line(line), Malformed)
    assert found is None or isinstance(found, FitCommand | Progress | Failed)


arrays = st.builds(
    np.zeros,
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(["f4", "i8", "u1"]),
)
names = st.sampled_from(["features", "conditions", "step", "adapter/a", "moments/a", "adapter/", "more", ""])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, arrays, max_size=4))
def test_any_tensors_are_a_checkpoint_and_samples_or_refused(tensors):
    data = encode_tensors(tensors)
    for decode, kind in ((decode_checkpoint, Checkpoint), (decode_samples, Batch)):
        found = read_or_refused(partial(decode, data), Malformed)
        assert found is None or isinstance(found, kind)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_learners_file_with_a_turned_bit_or_a_lost_end_is_read_or_refused(data):
    checkpoint = encode_checkpoint(Checkpoint(3, {"a": np.ones((2, 2), np.float32)}, {}))
    samples = encode_samples(Batch(np.ones((3, 1, 2, 2), np.float32), np.arange(3)))
    whole, decode = data.draw(st.sampled_from([(checkpoint, decode_checkpoint), (samples, decode_samples)]))
    spoiled = bytearray(whole)
    spoiled[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for each in (bytes(spoiled), whole[: data.draw(st.integers(0, len(whole) - 1))]):
        read_or_refused(partial(decode, each), Malformed)
