"""The second copy of what must outlive a database: no longer than it has to be, and merged without forgetting."""

import pytest

from edge_agent.drivers.second_copy import SecondCopy, Vital, merged
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_store import Database
from learning_core.errors import StateError


def test_the_second_copy_does_not_grow_with_what_changes_again_and_again(tmp_path):
    database = Database(tmp_path / "agent.db")
    for at in range(300):
        database.set_fact("paused", at % 2 == 0)
    database.close()
    Database(tmp_path / "agent.db").close()
    assert (tmp_path / "agent.vital").stat().st_size < 200


def test_the_later_facts_count_and_the_higher_spendings():
    database = Vital(3, frozenset({("a", 1)}), {(1.0, 1.0): 5}, {}, {"paused": True})
    copy = Vital(2, frozenset({("a", 2)}), {(1.0, 1.0): 4, (2.0, 1.0): 1}, {}, {"paused": False})
    both = Vital(3, frozenset({("a", 1), ("a", 2)}), {(1.0, 1.0): 5, (2.0, 1.0): 1}, {}, {"paused": True})
    assert merged(database, copy) == both
    assert merged(Vital(), copy) == copy
    assert merged(both, Vital()) == both


def test_a_rolled_back_change_is_in_neither_copy(tmp_path):
    database = Database(tmp_path / "agent.db")
    with pytest.raises(StateError):
        _spend_and_fail(database)
    assert SqliteJournal(database).spendings() == []
    database.set_fact("paused", True)
    database.close()
    assert SecondCopy(tmp_path / "agent.vital").read()[0].spendings == {}


def _spend_and_fail(database):
    with database.transaction() as db:
        db.execute("INSERT INTO spendings VALUES (1.0, 1.0, 1)")
        db.execute("SELECT nothing FROM nowhere")
