"""A database that a disk has spoiled: set aside with a sentence, and nothing sent is ever forgotten."""

import logging
import os
import shutil
import sqlite3
from datetime import date
from random import Random

import numpy as np
import pytest

from edge_agent.budget import Cost
from edge_agent.drivers import sqlite_store
from edge_agent.drivers.second_copy import SecondCopy
from edge_agent.drivers.sqlite_diary import SqliteDiary
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import MIGRATIONS, Database
from edge_agent.values import Action, Answer, Arrival, Decision, Ingested, NewSample, Reason
from learning_core.errors import StateError
from learning_core.federation.accountant import Spending
from learning_core.memory.keep_budget import Threshold
from learning_core.samples import Batch
from learning_core.updates import ClippedUpdate, ModelVersion, Update

ROUNDS = 6
CHARGE = Spending(1.0, 1.0, 1)
SPENT = [Spending(1.0, 1.0, ROUNDS)]


def answer(at=0.5):
    return Answer(ClippedUpdate(Update({"w": np.full((2, 2), at, np.float32)}, 3, ModelVersion(1)), 2.0), {"loss": 0.1})


def kept(count=40):
    batch = Batch(np.random.default_rng(0).standard_normal((count, 1, 4, 4), np.float32), np.full(count, 5))
    new = [NewSample(batch.features[i], np.ones(16, np.float32), 5, 7, 0.5) for i in range(count)]
    return Ingested(
        Arrival("a", "d", batch, np.zeros(count, np.int64), np.zeros(count, np.int64)), new, {}, Threshold()
    )


def lived_in(folder):
    """A device that has answered, spent, banned, decided and kept samples."""
    database = Database(folder / "agent.db")
    journal, diary = SqliteJournal(database), SqliteDiary(database, 30.0)
    for round_ in range(1, ROUNDS + 1):
        journal.record("fog-a", round_, answer(), CHARGE)
    journal.ban("f" * 64, "unsound", None)
    SqliteMemory(database).store(kept(), 1 << 20)
    for at in range(30):
        diary.decided(at, Decision(Action.WAIT, Reason.HEAT, "warm"), "wait.heat")
    diary.charge(date(2026, 6, 1), Cost(5.0, 100))
    database.set_fact("paused", True)
    database.set_fact("served_release", 3)
    database.set_fact("slots.shared.1", {"good": "a"})
    database.set_fact("slots.shared.2", {"good": "b"})
    with database.transaction() as db:
        db.execute("DELETE FROM facts WHERE name = 'slots.shared.1'")
    (folder / "device.pem").write_text("a key")
    return database


@pytest.fixture(scope="session")
def lived(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lived")
    lived_in(folder).close()
    return folder


@pytest.fixture
def state(tmp_path, lived):
    shutil.copytree(lived, tmp_path / "state")
    return tmp_path / "state"


def read_everything(database):
    journal, memory, diary = SqliteJournal(database), SqliteMemory(database), SqliteDiary(database, 30.0)
    for round_ in range(1, ROUNDS + 1):
        journal.answer("fog-a", round_)
    memory.samples(), memory.kept(), memory.places(), memory.threshold(), memory.newest(10)
    diary.decisions(50), diary.spent(date(2026, 6, 1)), database.counts(), database.fact("paused")
    memory.store(kept(2), 1 << 20)


def still_holds(database):
    journal = SqliteJournal(database)
    assert journal.spendings() == SPENT
    assert all(journal.answered("fog-a", round_) for round_ in range(1, ROUNDS + 1))
    assert journal.ban_on("f" * 64, 0.0) == "unsound"
    assert database.fact("paused") is True
    assert database.fact("served_release") == 3
    assert (database.fact("slots.shared.1"), database.fact("slots.shared.2")) == (None, {"good": "b"})


def spoil(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "another format":
        path.write_bytes(b"not a database, " * 700)
    elif how == "a page of zeros":
        path.write_bytes(data[:4096] + bytes(4096) + data[8192:])
    elif how == "a page of zeros at the start":
        path.write_bytes(bytes(4096) + data[4096:])
    elif how == "another program's tables":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE facts (name TEXT, value TEXT)")
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.close()
    elif how == "a fact that is none":
        with sqlite3.connect(path) as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('paused', '{')")
        db.close()


DAMAGES = [
    *("truncated", "empty", "gone", "another format", "a page of zeros", "a page of zeros at the start"),
    *("another program's tables", "a fact that is none"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_database_is_set_aside_and_what_was_sent_is_still_known(state, how, caplog):
    spoil(state / "agent.db", how)
    database = Database(state / "agent.db")
    still_holds(database)
    read_everything(database)
    database.close()
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert "what was spent is known" in told[0]
    assert (state / "agent.db.damaged").exists() == (how not in {"empty", "gone"})
    caplog.clear()
    Database(state / "agent.db").close()
    assert not caplog.records


@pytest.mark.parametrize("seed", range(40))
def test_bits_that_turned_anywhere_leave_a_database_that_can_be_read_and_lower_no_spending(state, seed):
    dice, path = Random(seed), state / "agent.db"
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 4, 64))):
        data[dice.randrange(100, len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    database = Database(path)
    read_everything(database)
    journal = SqliteJournal(database)
    assert sum(each.rounds for each in journal.spendings()) >= ROUNDS
    assert all(journal.answered("fog-a", round_) for round_ in range(1, ROUNDS + 1))
    database.close()


def test_a_sample_with_a_number_that_is_none_is_forgotten_and_the_others_stay(state, caplog):
    with sqlite3.connect(state / "agent.db") as db:
        for column, key in (("features", 3), ("embedding", 7)):
            db.execute(f"UPDATE samples SET {column} = ? WHERE key = ?", (np.full(16, np.inf, "<f4").tobytes(), key))
    db.close()
    database = Database(state / "agent.db")
    assert [each["key"] for each in SqliteMemory(database).newest(100)] == [n for n in range(1, 41) if n not in {3, 7}]
    assert "2 kept samples in" in caplog.text
    still_holds(database)
    database.close()


def test_a_log_that_was_lost_takes_back_no_spending(tmp_path):
    (tmp_path / "old").mkdir()
    database = lived_in(tmp_path / "old")
    SqliteJournal(database).record("fog-a", ROUNDS + 1, answer(), CHARGE)
    (tmp_path / "new").mkdir()
    for name in ("agent.db", "agent.vital"):  # as it lies there while it is open, without agent.db-wal
        shutil.copy(tmp_path / "old" / name, tmp_path / "new" / name)
    database.close()
    database = Database(tmp_path / "new" / "agent.db")
    assert SqliteJournal(database).spendings() == [Spending(1.0, 1.0, ROUNDS + 1)]
    assert SqliteJournal(database).answered("fog-a", ROUNDS + 1)
    database.close()


def test_where_both_copies_are_lost_training_waits_for_a_person(state, caplog):
    (state / "agent.db").write_bytes(b"x" * 5000)
    (state / "agent.vital").unlink()
    database = Database(state / "agent.db")
    assert database.fact("paused") is True
    database.close()
    assert "training is paused until `dewfall edge resume`" in caplog.records[-1].message


def test_a_kill_before_that_pause_was_stored_does_not_lift_it(state, monkeypatch):
    (state / "agent.db").write_bytes(b"x" * 5000)
    (state / "agent.vital").unlink()
    monkeypatch.setattr(sqlite_store, "restore", _killed)
    with pytest.raises(KeyboardInterrupt):
        Database(state / "agent.db")
    monkeypatch.undo()
    database = Database(state / "agent.db")
    assert database.fact("paused") is True
    database.close()


def test_a_line_that_rotted_beside_a_lost_database_counts_as_both_lost(state):
    (state / "agent.db").unlink()
    data = bytearray((state / "agent.vital").read_bytes())
    data[len(data) // 2] ^= 1
    (state / "agent.vital").write_bytes(data.replace(b'"paused",true', b'"paused",tru_'))
    database = Database(state / "agent.db")
    assert database.fact("paused") is True
    database.close()


def test_a_second_copy_that_is_damaged_or_lost_is_written_anew_from_the_database(state):
    whole = SecondCopy(state / "agent.vital").read()[0]
    for data in (b"", b"junk\n" * 9, (state / "agent.vital").read_bytes()[:-3]):
        (state / "agent.vital").write_bytes(data)
        Database(state / "agent.db").close()
        assert SecondCopy(state / "agent.vital").read()[0] == whole
    (state / "agent.vital").unlink()
    Database(state / "agent.db").close()
    assert SecondCopy(state / "agent.vital").read()[0] == whole


def test_a_new_device_is_not_paused_and_says_nothing(tmp_path, caplog):
    database = Database(tmp_path / "agent.db")
    assert database.fact("paused") is None
    database.close()
    assert not caplog.records


def test_a_newer_schema_is_refused_and_left_as_it_is(state):
    with sqlite3.connect(state / "agent.db") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    before = (state / "agent.db").read_bytes()
    with pytest.raises(StateError, match="written by a newer dewfall; install that version again"):
        Database(state / "agent.db")
    assert (state / "agent.db").read_bytes() == before
    assert not (state / "agent.db.damaged").exists()


def test_forgetting_takes_a_database_that_was_set_aside_with_it(state):
    (state / "agent.db").write_bytes(b"x" * 5000)
    database = Database(state / "agent.db")
    assert (state / "agent.db.damaged").exists()
    database.erase()
    assert not (state / "agent.db.damaged").exists()
    database.close()


def test_a_damaged_database_with_forgotten_bytes_in_it_is_not_kept(state):
    database = Database(state / "agent.db")
    database.set_fact("erasing", True)
    database.close()
    (state / "agent.db").write_bytes(b"x" * 5000)
    Database(state / "agent.db").close()
    assert not (state / "agent.db.damaged").exists()


def test_a_full_disk_between_the_two_copies_lets_nothing_leave_until_there_is_space(state, monkeypatch):
    database = Database(state / "agent.db")
    journal, real = SqliteJournal(database), os.fsync
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(StateError, match="is full"):
        journal.record("fog-a", 50, answer(), CHARGE)
    with pytest.raises(StateError, match="is full"):
        journal.answer("fog-a", 50)
    monkeypatch.setattr(os, "fsync", real)
    assert journal.answer("fog-a", 50) is not None
    assert ("fog-a", 50) in SecondCopy(state / "agent.vital").read()[0].answers
    assert SecondCopy(state / "agent.vital").read()[2]
    database.close()


def _killed(*_):
    raise KeyboardInterrupt


def _no_space(_):
    raise OSError(28, "No space left on device")
