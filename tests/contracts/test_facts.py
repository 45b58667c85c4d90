"""What every keeper of facts promises: the database, open or opened anew at each call, and the paper of other tests."""

import pytest
from opened_anew import OpenedAnew
from paper import Paper

from edge_agent.drivers.sqlite_store import Database


@pytest.fixture(params=["database", "opened anew", "paper"])
def facts(request, tmp_path):
    if request.param == "database":
        database = Database(tmp_path / "agent.db")
        yield database
        database.close()
    else:
        yield Paper() if request.param == "paper" else OpenedAnew(tmp_path / "agent.db", lambda database: database)


def test_a_fact_that_was_never_set_is_none(facts):
    assert facts.fact("x") is None


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, 2**60, "", "näh \x00\u2028", [], [1, [2]], {"a": {"b": [None]}}]
)
def test_what_was_set_comes_back(facts, value):
    facts.set_fact("x", value)
    found = facts.fact("x")
    assert (found, type(found)) == (value, type(value))


def test_the_last_set_counts_and_each_name_is_its_own(facts):
    for value in (1, 2):
        facts.set_fact("x", value)
    facts.set_fact("X", 3)
    assert (facts.fact("x"), facts.fact("X"), facts.fact("y")) == (2, 3, None)


def test_a_fact_is_a_copy_of_what_was_set_and_what_is_read_is_a_copy_of_the_fact(facts):
    days = {"monday": [1]}
    facts.set_fact("x", days)
    days["monday"].append(2)
    facts.fact("x")["monday"].append(3)
    assert facts.fact("x") == {"monday": [1]}


def test_what_is_no_json_is_refused_and_changes_nothing(facts):
    facts.set_fact("x", 1)
    with pytest.raises(TypeError):
        facts.set_fact("x", {1, 2})
    assert facts.fact("x") == 1
