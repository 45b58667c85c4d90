"""What the spool promises as a source, whoever writes into it: programs, lines, the doors, a person, the simulation."""

import base64
import io
import json
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from edge_agent.config import Source
from edge_agent.drivers.inbox import Inbox
from edge_agent.drivers.labelling import label, unsure
from edge_agent.drivers.line_source import observe
from edge_agent.drivers.program_source import ProgramSource
from edge_agent.drivers.spool_source import SpoolSource
from edge_agent.observation import Expected
from edge_agent.values import Arrival
from learning_core.errors import Malformed
from learning_core.samples import Batch
from protos.codec import encode_tensors
from protos.state_folder import write_atomically
from simulations.demo.twin import Twin
from simulations.physics import Board, DeviceState
from simulations.streams import Portion

SHAPE, CONDITIONS, MAX_BYTES = (1, 4, 4), 10, 1 << 20
SAMPLES = np.random.default_rng(0).uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
LABELS = np.array([3, 1, 4])
PROGRAM = f"""
import numpy as np

def camera(context):
    samples = np.random.default_rng(0).uniform(-1, 1, (3, *{SHAPE})).astype(np.float32)
    for features, condition in zip(samples, {LABELS.tolist()}, strict=True):
        yield {{"features": features, "condition": condition}}
"""


def observations(features, conditions):
    """As the JSON of a line each."""
    rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in features]
    pairs = zip(rows, conditions.tolist(), strict=True)
    return [{"features": row, "shape": list(SHAPE), "condition": condition} for row, condition in pairs]


def by_files(spool):
    """Any program that writes under another name, then renames."""
    tensors = {"features": SAMPLES, "conditions": LABELS}
    write_atomically(spool / "camera.safetensors", encode_tensors(tensors))


def by_lines(spool):
    lines = "".join(json.dumps(each) + "\n" for each in observations(SAMPLES, LABELS))
    told = observe(io.BytesIO(lines.encode()), spool, MAX_BYTES, None, lambda *_: None, lambda _: None)
    assert told == (3, 0)


def by_a_door(spool):
    inbox = Inbox(spool, MAX_BYTES, lambda: Expected(SHAPE, CONDITIONS))
    assert inbox.take(observations(SAMPLES, LABELS))["taken"] == 3


def by_a_program(spool):
    code = spool.parent / "code"
    code.mkdir()
    (code / "own_source.py").write_text(PROGRAM)
    manifest = SimpleNamespace(family="stand_in", num_conditions=CONDITIONS, known_conditions=(0,))
    release = SimpleNamespace(manifest=manifest, sample_shape=SHAPE)
    settings = Source(program="own_source:camera", program_path=code, retry_s=0.1)
    program = ProgramSource("device-1", spool, settings, lambda: release)
    program.step()
    program.close()
    assert program.describe()["refused"] == 0


def by_a_person(spool):
    """Samples that were set aside and are named."""
    source = SpoolSource(spool, MAX_BYTES)
    nothing = np.zeros(3, np.int64)
    for row in range(3):
        source.set_aside(Arrival("a", f"{row}" * 64, Batch(SAMPLES, nothing), nothing, nothing), row, "unsure")
    for waiting, condition in zip(unsure(spool), LABELS.tolist(), strict=True):
        label(spool, waiting["name"], condition)


def by_the_simulation(spool):
    stream = deque(Portion(float(at), Batch(SAMPLES[at : at + 1], LABELS[at : at + 1])) for at in range(3))
    state = DeviceState(40.0, 35.0)
    Twin("device-1", spool.parent / "root", spool, Board(), state, stream).deliver(10.0)


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def source(spool):
    return SpoolSource(spool, MAX_BYTES)


@pytest.fixture(params=[by_files, by_lines, by_a_door, by_a_program, by_a_person, by_the_simulation])
def fed(request, spool, source):
    """A source into whose spool three samples came."""
    request.param(spool)
    return source


def load(source, name):
    return source.load(name, SHAPE, CONDITIONS)


def test_what_was_fed_arrives_in_order_with_its_conditions(fed):
    arrivals = [load(fed, name) for name in fed.pending()]
    np.testing.assert_array_equal(np.concatenate([each.batch.features for each in arrivals]), SAMPLES)
    np.testing.assert_array_equal(np.concatenate([each.batch.conditions for each in arrivals]), LABELS)
    for each in arrivals:
        assert len(each.taken_at_s) == len(each.ids) == len(each.batch)


def test_a_file_waits_until_it_is_done_and_is_the_same_each_time(fed):
    names = fed.pending()
    first = [load(fed, name).digest for name in names]
    assert ([load(fed, name).digest for name in names], fed.pending()) == (first, names)
    assert len(set(names)) == len(set(first)) == len(names) > 0
    assert names == sorted(names)
    for left, name in enumerate(names, start=1):
        assert fed.done(name)
        assert load(fed, name) is None
        assert fed.pending() == names[left:]


def test_what_was_fed_later_comes_later(fed, spool):
    before = fed.pending()
    by_lines(spool)
    assert set(before) < set(fed.pending())


def test_a_refused_file_waits_no_more_and_lies_where_a_person_looks_with_the_reason(fed, spool):
    name, *rest = fed.pending()
    data = (spool / name).read_bytes()
    fed.refuse(name, "it has another shape")
    assert fed.pending() == rest
    assert load(fed, name) is None
    assert (spool / "refused" / name).read_bytes() == data
    assert (spool / "refused" / f"{name}.reason").read_text() == "it has another shape\n"


def test_a_sample_set_aside_twice_is_one_and_its_file_goes_on_waiting(fed, spool):
    name, *rest = fed.pending()
    arrival = load(fed, name)
    for _ in range(2):
        fed.set_aside(arrival, 0, "no condition is likely")
    (aside,) = unsure(spool)
    assert aside["reason"] == "no condition is likely"
    assert fed.pending() == [name, *rest]
    again = SpoolSource(spool / "unsure", MAX_BYTES).load(aside["name"], SHAPE, CONDITIONS)
    np.testing.assert_array_equal(again.batch.features, SAMPLES[:1])


@pytest.mark.parametrize("odd", [((1, 5, 5), CONDITIONS), (SHAPE, 3)])
def test_what_does_not_fit_the_release_is_malformed_and_goes_on_waiting(fed, odd):
    names = fed.pending()

    def load_all():
        for name in names:
            fed.load(name, *odd)

    with pytest.raises(Malformed):
        load_all()
    assert fed.pending() == names


def test_nothing_waits_in_a_new_spool_and_what_is_gone_is_done(source):
    assert source.pending() == []
    assert load(source, "a.safetensors") is None
    assert source.done("a.safetensors")
    source.refuse("a.safetensors", "it is odd")
    assert source.pending() == []


def test_a_file_that_is_still_written_does_not_wait_yet(source, spool):
    (spool / ".a.safetensors").write_bytes(b"half")
    assert source.pending() == []


def test_a_file_that_can_neither_go_nor_be_moved_waits_no_more(source, spool):
    (spool / "a.safetensors").mkdir()
    (spool / "refused").write_bytes(b"in the way")
    with pytest.raises(Malformed):
        load(source, "a.safetensors")
    source.refuse("a.safetensors", "it is a folder")
    assert source.pending() == []
    (spool / "b.safetensors").mkdir()
    assert not source.done("b.safetensors")
    assert source.pending() == []
