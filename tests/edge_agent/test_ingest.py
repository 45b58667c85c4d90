import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from edge_agent.drivers.onnx_engine import load_release
from edge_agent.drivers.spool_source import SpoolSource
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.ingest import Intake, take_in
from edge_agent.signs import StreamWatch
from learning_core.errors import StateError
from learning_core.memory.keep_budget import Threshold
from learning_core.memory.novelty import Rule
from protos.codec import encode_tensors

ROOM = 1 << 20


class Device:
    """A spool, a memory and a release, as the agent has them."""

    def __init__(self, folder, release):
        self.spool = folder / "spool"
        self.source = SpoolSource(self.spool, 1 << 20)
        self.database = Database(folder / "agent.db")
        self.memory = SqliteMemory(self.database)
        self.release = release
        self.watch = StreamWatch(np.random.default_rng(0))

    def drop(self, name, tensors):
        data = tensors if isinstance(tensors, bytes) else encode_tensors(tensors)
        (self.spool / ".draft").write_bytes(data)
        (self.spool / ".draft").rename(self.spool / name)

    def take_in(self, max_bytes=ROOM, rule=Rule(), wanted=()):
        rng, intake = np.random.default_rng(0), Intake(rule, max_bytes, wanted=frozenset(wanted))
        return take_in(self.source, self.memory, self.release, intake, rng, self.watch)

    def files(self):
        return sorted(path.name for path in self.spool.iterdir() if path.is_file())


@pytest.fixture
def device(tmp_path, release):
    device = Device(tmp_path, release)
    yield device
    device.database.close()


def samples(count, seed=0, condition=None):
    rng = np.random.default_rng(seed)
    conditions = rng.integers(5, 8, count) if condition is None else np.full(count, condition)
    return {
        "features": rng.standard_normal((count, 1, 4, 4), np.float32),
        "conditions": conditions.astype(np.int64),
    }


def test_files_are_taken_in_by_name_and_are_gone_afterwards(device):
    for name in ("b.safetensors", "a.safetensors"):
        device.drop(name, samples(3, seed=ord(name[0])))
    assert device.take_in().arrival.name == "a.safetensors"
    assert device.take_in().arrival.name == "b.safetensors"
    assert device.take_in() is None
    assert device.files() == []
    assert device.database.rows("SELECT name FROM arrivals") == []


def test_what_is_kept_is_what_came_with_its_embedding(device):
    sent = samples(4) | {"taken_at_s": np.arange(4)}
    device.drop("a.safetensors", sent)
    device.take_in()
    batch, newest = device.memory.samples()
    np.testing.assert_array_equal(batch.features, sent["features"])
    np.testing.assert_array_equal(batch.conditions, sent["conditions"])
    for condition, embeddings in device.memory.kept().by_condition.items():
        expected = sent["features"][sent["conditions"] == condition].reshape(-1, 16)
        np.testing.assert_array_equal(embeddings, expected)
    assert newest == 4


def test_copies_of_a_sample_are_dropped_and_counted_with_their_reason(device):
    one = samples(1, condition=6)
    device.drop("a.safetensors", {name: np.repeat(value, 10, axis=0) for name, value in one.items()})
    device.take_in()
    counts = device.database.counts()
    assert (counts["seen"], counts["kept"], counts["dropped"]) == (10, 1, 9)
    assert (counts["why.first"], counts["why.duplicate"]) == (1, 9)


def test_memory_stays_within_its_bytes_and_keeps_every_condition(device):
    for index in range(6):
        device.drop(f"{index}.safetensors", samples(40, seed=index))
        device.take_in(max_bytes=8000)
    places = device.memory.places()
    assert sum(place.num_bytes for place in places) <= 8000
    assert {place.condition for place in places} == {5, 6, 7}
    counts = device.database.counts()
    assert counts["kept"] - counts["forgotten"] == len(places)


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        samples(2) | {"conditions": np.array([1, 10])},
        samples(2) | {"conditions": np.array([1])},
        samples(2) | {"features": np.zeros((2, 16), np.float32)},
        samples(2) | {"features": np.full((2, 1, 4, 4), np.nan, np.float32)},
        samples(2) | {"taken_at_s": np.zeros(2, np.float32)},
        samples(2) | {"name": np.zeros(2, np.float32)},
        {"features": np.zeros((0, 1, 4, 4), np.float32), "conditions": np.zeros(0, np.int64)},
    ],
)
def test_a_malformed_file_is_put_aside_with_one_line_and_changes_nothing(device, junk, caplog):
    device.drop("a.safetensors", junk)
    device.drop("b.safetensors", samples(1))
    assert device.take_in().arrival.name == "b.safetensors"
    assert (device.spool / "refused/a.safetensors").exists()
    assert [record.message for record in caplog.records if "a.safetensors" in record.message].__len__() == 1
    assert device.database.counts()["seen"] == 1


def test_a_pipe_and_a_link_in_the_spool_hold_nobody_up(device, tmp_path):
    os.mkfifo(device.spool / "a.safetensors")
    (tmp_path / "secret").write_bytes(encode_tensors(samples(1)))
    (device.spool / "b.safetensors").symlink_to(tmp_path / "secret")
    device.drop("c.safetensors", samples(1))
    assert device.take_in().arrival.name == "c.safetensors"


def test_drafts_and_other_files_are_left_alone(device):
    (device.spool / ".a.safetensors.draft").write_bytes(b"")
    (device.spool / "notes.txt").write_text("")
    assert device.take_in() is None
    assert len(device.files()) == 2


def test_a_name_may_come_again_with_other_samples(device):
    for seed in (1, 2):
        device.drop("a.safetensors", samples(2, seed))
        device.take_in()
    assert device.database.counts()["seen"] == 4


def test_another_release_embeds_memory_anew_and_forgets_what_it_has_no_place_for(device, tmp_path, stand_in):
    device.drop("a.safetensors", samples(6))
    device.take_in()
    folder = tmp_path / "published" / "2"
    manifest = stand_in.make_release(folder, 2, rows=stand_in.centres())
    device.release = load_release(folder, manifest, stand_in.manifest_digest(folder))
    before = device.memory.base()
    device.take_in()
    assert device.memory.base() == device.release.digest != before
    assert device.memory.size() == 6
    device.memory.rebase("other", lambda features: features.reshape(len(features), -1)[:, :3], (1, 4, 4), 7)
    kept = device.memory.kept()
    assert {embeddings.shape[1] for embeddings in kept.by_condition.values()} == {3}
    assert set(kept.by_condition) <= {5, 6}
    assert device.memory.threshold() == Threshold(device.memory.threshold().ahead)  # other distances, other scale


def test_the_threshold_goes_on_where_it_was_and_the_number_an_earlier_version_left_counts_as_none(device):
    device.drop("a.safetensors", samples(20))
    left = device.take_in().threshold
    assert left.novelty.seen > 0
    assert device.memory.threshold() == left
    device.database.set_fact("novelty_threshold", 0.5)
    assert device.memory.threshold() == Threshold()


def test_a_full_disk_is_said_in_one_sentence_and_nothing_is_lost(device):
    device.take_in()
    device.drop("a.safetensors", samples(200))
    pages = device.database.rows("PRAGMA page_count")[0][0]
    device.database.rows(f"PRAGMA max_page_count = {pages}")  # as SQLite sees a full disk
    with pytest.raises(StateError, match="free disk space"):
        device.take_in()
    assert device.files() == ["a.safetensors"]
    device.database.rows("PRAGMA max_page_count = 100000")
    device.take_in()
    assert device.database.counts()["seen"] == 200


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from edge_agent.drivers import spool_source, sqlite_memory
    from edge_agent.drivers.onnx_engine import load_release
    from edge_agent.drivers.sqlite_store import Database
    from edge_agent.ingest import Intake, take_in
    from edge_agent.signs import StreamWatch
    from learning_core.memory.novelty import Rule
    from protos.release import verify_release
    folder, published, key, where = Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3]), sys.argv[4]
    memory = sqlite_memory.SqliteMemory(Database(folder / "agent.db"))
    source = spool_source.SpoolSource(folder / "spool", 1 << 20)
    release = load_release(published, verify_release(published, key), "digest")
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if where == "before the commit":
        sqlite_memory.put_fact = die
        memory._database.set_fact("embedded_by", "digest")
    if where == "before the file is removed":
        source.done = die
    if where == "before the name is forgotten":
        memory.forget_arrival = die
    rng = np.random.default_rng(0)
    take_in(source, memory, release, Intake(Rule(), 1 << 20), rng, StreamWatch(rng))
"""


@pytest.mark.parametrize("where", ["before the commit", "before the file is removed", "before the name is forgotten"])
def test_kill_9_at_any_moment_takes_every_sample_in_exactly_once(where, tmp_path, device, release, stand_in):
    device.memory.base()
    device.database.set_fact("embedded_by", "digest")
    device.release = load_release(tmp_path / "published/1", release.manifest, "digest")
    device.drop("a.safetensors", samples(5))
    device.database.close()
    code = textwrap.dedent(KILLED)
    arguments = [str(tmp_path), str(tmp_path / "published/1"), stand_in.PUBLIC_KEY.hex(), where]
    died = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert died.returncode == -signal.SIGKILL
    back = Device(tmp_path, device.release)
    back.drop("b.safetensors", samples(2, seed=9))
    while back.take_in() is not None:
        pass
    assert back.database.counts()["seen"] == 7
    assert back.memory.size() == back.database.counts()["kept"]
    assert back.files() == []
    back.database.close()


def test_familiar_samples_of_a_wanted_condition_are_kept_and_copies_are_not(device):
    for number in range(3):
        device.drop(f"{number}.safetensors", encode_tensors(samples(120, number, condition=6)))
        device.take_in(rule=Rule(keep_share=0.05))
    device.drop("wanted.safetensors", encode_tensors(samples(40, 9, condition=6)))
    wanted = device.take_in(rule=Rule(keep_share=0.05), wanted=[6])
    assert wanted.reasons["wanted"] > 20
    assert len(wanted.kept) == sum(wanted.reasons.values())
    device.drop("again.safetensors", encode_tensors(samples(40, 9, condition=6)))
    assert len(device.take_in(rule=Rule(keep_share=0.05), wanted=[6]).kept) == 0
