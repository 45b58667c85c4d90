"""A sample's way in from files of any program: what is nameless, odd, sent again or hostile, and what becomes of it."""

import errno
import io
import json
import os
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from edge_agent.__main__ import cli
from edge_agent.config import Source
from edge_agent.drivers import plain_files
from edge_agent.drivers.forgetting import forget
from edge_agent.drivers.line_source import observe
from edge_agent.drivers.plain_files import is_plain_name, plain_name, read_plain
from edge_agent.drivers.set_aside import SetAside
from edge_agent.drivers.spool_source import SpoolSource, class_of
from edge_agent.drivers.sqlite_memory import IDS_KEPT, SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.ingest import Intake, take_in
from edge_agent.normalise.pictures import Span
from edge_agent.normalise.wanted import Conversions
from edge_agent.png import png_of
from edge_agent.proposing import doubt_of, propose
from edge_agent.selection import Everything, OneClass, OneSample
from edge_agent.signs import StreamWatch
from learning_core.errors import ConfigError, Malformed, StateError
from learning_core.memory.novelty import Rule
from protos.codec import encode_tensors


class Device:
    """A spool, a memory and a release; how sure the judge has to be, and what is converted, as the settings say."""

    def __init__(self, folder, release, min_certainty=0.9, **conversions):
        self.folder, self.spool, self.release = folder, folder / "spool", release
        self.source = SpoolSource(self.spool, 1 << 20, Conversions(**conversions))
        self.database = Database(folder / "agent.db")
        self.memory = SqliteMemory(self.database)
        self.intake = Intake(Rule(keep_share=1.0), 1 << 20, min_certainty)
        self.rng = np.random.default_rng(0)
        self.watch = StreamWatch(self.rng)

    def drop(self, name, data):
        path = self.spool / name
        path.write_bytes(data if isinstance(data, bytes) else encode_tensors(data))
        os.utime(path, (time.time() - 5,) * 2)
        return path

    def take_all(self):
        while take_in(self.source, self.memory, self.release, self.intake, self.rng, self.watch) is not None:
            pass
        return self.database.counts()

    def kept(self):
        return [(each["class"], each["certainty"]) for each in self.memory.newest(100)]

    def reasons(self, folder="refused"):
        return {path.name: path.read_text().strip() for path in sorted((self.spool / folder).glob("*.reason"))}


@pytest.fixture
def device(tmp_path, release):
    device = Device(tmp_path, release)
    yield device
    device.database.close()


@pytest.fixture
def centres(stand_in):
    return stand_in.centres().reshape(10, 1, 4, 4)


def test_an_image_file_is_one_sample_whose_name_may_tell_its_class(device, centres):
    device.drop("gate.c7.png", png_of(centres[7:8], zoom=1))
    device.drop("gate.c8.pgm", b"P5 4 4 255\n" + np.uint8((centres[8, 0] + 1) * 127.5).tobytes())
    device.take_all()
    assert device.kept() == [(7, None), (8, None)]
    np.testing.assert_allclose(device.memory.features(1), centres[7], atol=0.01)
    assert (class_of("a.c3.png"), class_of("c3.png"), class_of("a.c3.b.png"), class_of("a.cx.png")) == (
        3,
        None,
        None,
        None,
    )


def test_a_sample_without_a_class_gets_the_one_the_judge_is_sure_of_and_says_so(device, centres):
    device.drop("a.safetensors", {"features": centres[4:6]})
    counts = device.take_all()
    assert [each for each, _ in device.kept()] == [4, 5]
    assert all(0.9 <= certainty <= 1 for _, certainty in device.kept())
    assert (counts["proposed"], counts["unsure"]) == (2, 0)


def test_one_the_judge_is_not_sure_of_waits_for_a_person_who_names_it(device, centres, tmp_path):
    between = (centres[2:3] + centres[3:4]) / 2
    device.drop("a.safetensors", {"features": np.concatenate((centres[4:5], between)), "conditions": np.array([4, -1])})
    counts = device.take_all()
    assert (counts["seen"], counts["kept"], counts["dropped"], counts["unsure"], counts["why.unsure"]) == (
        2,
        1,
        0,
        1,
        1,
    )
    (name,) = (path.name for path in (device.spool / "unsure").glob("*.safetensors"))
    call = ["label", "--state", str(tmp_path)]
    listed = CliRunner().invoke(cli, call).output
    assert name in listed
    assert "it looks like class" in listed
    drawn = CliRunner().invoke(cli, [*call, name, "--png", str(tmp_path / "x.png")])
    assert (drawn.exit_code, (tmp_path / "x.png").exists()) == (0, True)
    assert CliRunner().invoke(cli, [*call, name, "--class", "3"]).exit_code == 0
    device.take_all()
    assert device.kept() == [(4, None), (3, None)]
    np.testing.assert_array_equal(device.memory.features(2), between[0])
    assert list((device.spool / "unsure").iterdir()) == []
    assert CliRunner().invoke(cli, call).output == "none waits\n"
    for odd in (name, "../agent.db", "x"):
        assert isinstance(CliRunner().invoke(cli, [*call, odd, "--class", "3"]).exception, ConfigError)


def test_a_proposal_is_the_largest_share_with_the_next_one_beside_it():
    found = propose(np.log(np.array([0.1, 0.7, 0.2], np.float32)))
    assert (found.condition, found.second) == (1, 2)
    assert (found.certainty, found.second_certainty) == (pytest.approx(0.7), pytest.approx(0.2))
    assert doubt_of(found, 0.7 - 1e-6) is None
    assert "class 1 (share 0.70), or 2 (0.20): less sure than the 0.8" in doubt_of(found, 0.8)
    assert propose(np.array([np.nan, 1.0], np.float32)).certainty == 0
    assert propose(np.array([5.0], np.float32)).certainty == 1
    assert doubt_of(propose(np.array([500.0, 0.0], np.float32)), 1.0)  # at 1 every class has to come with the sample


def test_a_kill_between_setting_aside_and_storing_does_both_again_and_leaves_one(device, centres, monkeypatch):
    between = (centres[2:3] + centres[3:4]) / 2
    device.drop("a.safetensors", {"features": np.concatenate((centres[4:5], between)), "conditions": np.array([4, -1])})
    monkeypatch.setattr(device.memory, "store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        device.take_all()
    monkeypatch.undo()
    assert device.take_all()["unsure"] == 1
    assert len(list((device.spool / "unsure").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"program": "os.system"},
        {"program": "a:b;c"},
        {"mean": [1.0]},
        {"mean": [1.0], "spread": [0.0]},
        {"floats": "0..2"},
        {"min_certainty": 1.1},
    ],
)
def test_settings_of_a_source_that_mean_nothing_are_refused(odd):
    with pytest.raises(ValidationError):
        Source(**odd)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=6))
def test_certainties_are_shares_and_the_first_is_at_least_the_second(logits):
    found = propose(np.array(logits, np.float32))
    assert 0 <= found.second_certainty <= found.certainty <= 1
    assert found.certainty >= 1 / len(logits) - 1e-9


def test_other_spans_and_sizes_come_in_as_the_settings_say(tmp_path, release, centres):
    device = Device(tmp_path, release, floats=Span.UNIT, resize=True)
    large = ((centres[7] + 1) / 2).repeat(2, axis=1).repeat(2, axis=2)
    device.drop(
        "a.safetensors", {"features": large[None].transpose(0, 2, 3, 1).astype(np.float32), "conditions": np.array([7])}
    )
    device.take_all()
    np.testing.assert_allclose(device.memory.features(1), centres[7], atol=1e-5)
    device.database.close()


def test_a_bad_item_is_set_aside_with_its_reason_and_the_stream_goes_on(device, centres):
    device.drop("a.jpg.png", b"\xff\xd8\xff\xe0")
    device.drop("b.png", png_of(centres[:1], zoom=2))
    device.drop("c.safetensors", {"features": centres[:2], "conditions": np.array([0, 12])})
    device.drop("d.safetensors", {"features": centres[:1], "conditions": np.array([0])})
    assert device.take_all()["seen"] == 1
    told = device.reasons()
    assert "JPEG files are not read" in told["a.jpg.png.reason"]
    assert "source.resize = true" in told["b.png.reason"]
    assert "within 0..9" in told["c.safetensors.reason"]


def test_what_was_set_aside_is_bounded_and_the_oldest_give_way(tmp_path):
    aside = SetAside(tmp_path, max_bytes=10 * 4096)
    for index in range(20):
        (tmp_path / f"{index:02}.png").write_bytes(b"x" * 100)
        aside.refuse(f"{index:02}.png", "why")
    left = sorted(path.name for path in (tmp_path / "refused").iterdir())
    assert len(left) == 10
    assert left[0] == "15.png"


def test_an_id_is_taken_in_once_also_after_a_restart_and_is_forgotten_in_the_end(
    device, tmp_path, release, monkeypatch
):
    rng = np.random.default_rng(1)

    def drop(name, ids):
        features = rng.standard_normal((len(ids), 1, 4, 4), np.float32)
        device.drop(name, {"features": features, "conditions": np.full(len(ids), 5), "ids": np.array(ids)})

    drop("a.safetensors", [1, 2, 1, 0, 0])
    assert device.take_all()["seen"] == 4
    device.database.close()
    again = Device(tmp_path, release)
    drop("b.safetensors", [2, 3])
    drop("c.safetensors", [1, 2])
    counts = again.take_all()
    assert (counts["seen"], counts["why.again"]) == (5, 3)
    monkeypatch.setattr("edge_agent.drivers.sqlite_memory.IDS_KEPT", 3)
    drop("d.safetensors", [4])
    again.take_all()
    assert again.memory.knows_ids(np.array([1, 2, 3, 4, 0])).tolist() == [False, True, True, True, False]
    assert IDS_KEPT > 3
    again.database.close()


def test_a_database_of_an_earlier_version_learns_what_was_proposed(tmp_path):
    from edge_agent.drivers import sqlite_store

    whole = sqlite_store.MIGRATIONS
    index = next(at for at, script in enumerate(whole) if "certainty" in script)
    sqlite_store.MIGRATIONS = whole[:index]
    try:
        database = Database(tmp_path / "agent.db")
        with database.transaction() as db:
            db.execute(
                "INSERT INTO samples (condition, taken_at_s, rank, shape, features, embedding)"
                " VALUES (3, 0, .5, '[1]', x'00000000', x'00000000')"
            )
        database.close()
    finally:
        sqlite_store.MIGRATIONS = whole
    database = Database(tmp_path / "agent.db")
    assert SqliteMemory(database).newest(5) == [{"key": 1, "class": 3, "taken_at_s": 0, "certainty": None}]
    database.close()


def test_an_image_that_is_still_being_written_is_left_until_it_is_whole(device, centres):
    path = device.drop("a.c7.png", png_of(centres[7:8], zoom=1))
    os.utime(path)
    assert device.source.pending() == []
    os.utime(path, (time.time() + 3600,) * 2)  # the clock was set back meanwhile
    assert device.source.pending() == ["a.c7.png"]


NAMES = (
    "a\nb.safetensors",
    "\x1b[31m.safetensors",
    "\u202egnp.safetensors",
    "x" * 240 + ".safetensors",
    b"\xff.safetensors",
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_tricks_is_put_aside_under_another(device, centres, name, caplog):
    path = device.spool / os.fsdecode(name)
    path.write_bytes(encode_tensors({"features": centres[:1], "conditions": np.array([0])}))
    device.drop("z.safetensors", {"features": centres[:1], "conditions": np.array([0])})
    assert device.take_all()["seen"] == 1
    (kept,) = (each.name for each in (device.spool / "refused").iterdir() if each.suffix != ".reason")
    assert kept.startswith("renamed-")
    assert not any("\n" in record.message or "\x1b" in record.message for record in caplog.records)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_any_name_is_kept_or_made_plain_and_always_the_same(name):
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return  # no name of a file
    made = plain_name(name)
    assert is_plain_name(made)
    assert plain_name(made) == made == plain_name(name)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "socket", "device"])
def test_what_is_no_plain_file_is_neither_opened_nor_followed(device, centres, tmp_path, kind, monkeypatch):
    path = device.spool / "a.safetensors"
    secret = tmp_path / "secret"
    secret.write_bytes(encode_tensors({"features": centres[:1], "conditions": np.array([0])}))
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(secret)
        case "folder":
            path.mkdir()
        case "socket":
            monkeypatch.chdir(device.spool)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        case "device":
            try:
                os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero never ends
            except OSError:
                pytest.skip("only root may make devices")
    device.drop("b.safetensors", {"features": centres[:1], "conditions": np.array([0])})
    assert device.take_all()["seen"] == 1
    assert "not a plain file" in device.reasons()["a.safetensors.reason"]
    assert secret.exists()


def test_a_link_in_the_place_of_a_subfolder_leads_nothing_out(device, centres, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.safetensors").write_bytes(b"x" * 100_000)
    for name in ("refused", "unsure"):
        (device.spool / name).symlink_to(outside)
    device.drop("a.safetensors", b"junk")
    device.drop("b.safetensors", {"features": (centres[2:3] + centres[3:4]) / 2})
    device.drop("c.safetensors", {"features": centres[:1], "conditions": np.array([0])})
    assert device.take_all()["seen"] == 2
    assert device.source.pending() == []  # what can be neither taken nor moved is left alone
    assert CliRunner().invoke(cli, ["label", "--state", str(tmp_path)]).output == "none waits\n"
    (device.spool / "refused").unlink()
    aside = SetAside(device.spool, max_bytes=4096)
    aside.refuse("a.safetensors", "why")
    forget(Everything(), tmp_path, device.spool, device.database)
    assert [path.name for path in outside.iterdir()] == ["mine.safetensors"]


def test_a_full_disk_holds_what_is_unsure_back_instead_of_losing_it(device, centres, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space left")

    device.drop("a.safetensors", {"features": (centres[2:3] + centres[3:4]) / 2})
    monkeypatch.setattr("edge_agent.drivers.set_aside.write_within", full)
    with pytest.raises(StateError, match="free disk space"):
        device.take_all()
    monkeypatch.undo()
    assert device.take_all()["unsure"] == 1


def test_text_comes_in_rows_where_a_release_takes_it_and_is_known_by_one_id(device, tmp_path):
    lines = [
        {"text": "h\u00e9llo you", "id": "a", "condition": 1},
        {"text": "no", "condition": 0},
        {"text": "x", "id": "a"},
    ]
    stream = io.BytesIO(b"".join(json.dumps(each).encode() + b"\n" for each in lines))
    assert observe(stream, device.spool, 1 << 20, None, pytest.fail, pytest.fail) == (3, 0)
    (name,) = device.source.pending()
    arrival = device.source.load(name, (4,), 2)
    assert bytes(arrival.batch.features.astype(np.uint8).ravel()) == "h\u00e9llo you\0\0no\0\0".encode()
    assert arrival.batch.conditions.tolist() == [1, 1, 1, 0]
    assert (arrival.ids != 0).tolist() == [True, True, True, False]
    with pytest.raises(Malformed, match=r"text cannot be taken: the release takes samples of the shape \(1, 4, 4\)"):
        device.source.load(name, (1, 4, 4), 10)
    forget(OneClass(1), tmp_path, device.spool, device.database)
    (left,) = device.source.pending()
    assert device.source.load(left, (4,), 2).batch.conditions.tolist() == [0, -1]


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 10)
    real = os.fstat

    def grows(handle):
        about = real(handle)
        with path.open("ab") as file:
            file.write(b"y")
        return about

    monkeypatch.setattr(plain_files.os, "fstat", grows)
    with pytest.raises(Malformed, match="changed while it was read"):
        read_plain(path, 100)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(["features", "conditions", "taken_at_s", "ids", "span", "texts", "lengths", "odd"]),
        st.sampled_from(
            [
                np.zeros((2, 1, 4, 4), np.float32),
                np.zeros((2, 4, 4), np.uint8),
                np.array([3, -1]),
                np.array([1]),
                np.array([2, 1 << 62]),
                np.zeros(3, np.uint8),
                np.zeros((), np.float32),
                np.zeros((2, 0), np.float32),
                np.array([0.5], np.float32),
            ]
        ),
        max_size=5,
    )
    | st.binary(max_size=60)
)
def test_any_file_is_an_arrival_or_malformed(device, tensors):
    data = tensors if isinstance(tensors, bytes) else encode_tensors(tensors)
    (device.spool / "x.safetensors").write_bytes(data)
    try:
        arrival = device.source.load("x.safetensors", (1, 4, 4), 10)
    except Malformed:
        return
    assert arrival.batch.features.shape[1:] == (1, 4, 4)
    assert len(arrival.batch) == len(arrival.taken_at_s) == len(arrival.ids) == len(arrival.batch.features)


def test_forgetting_reaches_images_what_is_unsure_and_the_reasons(device, centres, tmp_path):
    between = (centres[2:3] + centres[3:4]) / 2
    device.drop(
        "a.safetensors", {"features": np.concatenate((centres[4:6], between)), "conditions": np.array([4, 5, -1])}
    )
    device.take_all()
    device.drop("b.c4.png", png_of(centres[4:5], zoom=1))
    device.drop("c.c5.png", png_of(centres[5:6], zoom=1))
    device.drop("d.png", png_of(centres[5:6], zoom=1))
    device.drop("e.safetensors", b"junk")
    device.source.refuse("e.safetensors", "why")
    told = forget(OneClass(4), tmp_path, device.spool, device.database)
    assert (told.samples, told.files) == (1, 1)
    assert [name.split("/")[0] for name in told.unread] == ["d.png", "refused", "unsure"]
    assert not (device.spool / "b.c4.png").exists()
    told = forget(OneSample(2), tmp_path, device.spool, device.database)
    assert (told.samples, told.files) == (1, 2)  # in which way bytes and floats meet, is known
    forget(Everything(), tmp_path, device.spool, device.database)
    assert [path for path in device.spool.rglob("*") if path.is_file()] == []


def test_samples_show_which_class_was_proposed_and_the_agent_takes_what_a_program_brings(tmp_path, mirror, stand_in):
    (tmp_path / "camera.py").write_text(
        "import time, numpy as np\n"
        "def frames(context):\n"
        "    print('a program may print')\n"
        f"    centres = np.array({stand_in.centres().tolist()}, np.float32).reshape(10, 1, 4, 4)\n"
        "    assert context.sample_shape == (1, 4, 4) and context.num_conditions == 10\n"
        "    yield centres[6], 6\n"
        "    yield 'no image'\n"
        "    yield {'features': np.uint8((centres[7] + 1) * 127.5), 'id': 'seven'}\n"
        "    raise RuntimeError('the cable is out')\n"
    )
    more = f'program = "camera:frames"\nprogram_path = "{tmp_path}"\nretry_s = 0.5\n[serving]\nhttp = "127.0.0.1:0"'
    machine = stand_in.Machine(tmp_path, mirror.address, mirror.ca, "good", more)
    mirror.publish(1)
    machine.start()
    try:
        status = machine.wait_for(lambda now: now["samples"]["why"].get("again", 0) >= 1)
        assert status["samples"]["why"]["first"] == 2
        assert "the cable is out" in status["program"]["trouble"]
        assert status["program"]["refused"] >= 2
        assert status["stream"]["seen"] >= 3
        listed = CliRunner().invoke(cli, ["samples", "--config", str(machine.settings)]).output.splitlines()
        assert len(listed) == 2
        assert "class    6" in listed[0]
        assert "class    7" in listed[1]
        assert "proposed by the judge" in listed[1]
        said = (tmp_path / "log").read_text()
        assert said.count("the cable is out") == 1
        assert said.count("takes samples of the shape (1, 4, 4)") == 1
        assert json.loads((machine.state / "status.json").read_text())["program"]["program"] == "camera:frames"
        assert (machine.state / "http.token").stat().st_mode & 0o777 == 0o600
    finally:
        machine.close()
    assert threading.active_count() < 50
