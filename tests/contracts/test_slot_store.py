"""What every store of slots promises, whether it stays open or each call is a new process's."""

import pytest

from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.slots import PERSONAL, RELEASE, SHARED, Slots
from learning_core.errors import StateError

TRIED = Slots(good="1", trial="2", starts=2, newest=2)
LEARNED = Slots(good="a" * 64, previous="b" * 64)


@pytest.fixture
def store(on_disk):
    return on_disk(SqliteSlots)


def test_before_anything_is_stored_slots_are_empty_and_nothing_is_banned(store):
    assert (store.slots(RELEASE), store.slots(SHARED, "r1")) == (Slots(), Slots())
    assert (store.bans(), store.ban_on("x"), store.lift("x")) == ([], None, False)


def test_slots_are_as_they_were_stored_last(store):
    store.store(RELEASE, "", LEARNED, {})
    store.store(RELEASE, "", TRIED, {})
    assert store.slots(RELEASE) == TRIED


def test_each_kind_and_each_release_has_its_own(store):
    store.store(RELEASE, "", TRIED, {})
    store.store(SHARED, "r1", LEARNED, {})
    assert store.slots(RELEASE) == TRIED
    assert store.slots(SHARED, "r1") == LEARNED
    assert store.slots(SHARED, "r2") == store.slots(PERSONAL, "r1") == Slots()


def test_a_transition_and_its_bans_are_stored_together(store):
    store.store(SHARED, "r1", LEARNED, {"x": "it was worse", "y": "it was slow"})
    assert (store.ban_on("x"), store.ban_on("y"), store.ban_on("z")) == ("it was worse", "it was slow", None)
    assert store.slots(SHARED, "r1") == LEARNED


def test_a_transition_that_cannot_be_stored_bans_nothing_and_a_ban_that_cannot_leaves_the_slots(store):
    store.store(RELEASE, "", TRIED, {})
    with pytest.raises((TypeError, StateError)):
        store.store(RELEASE, "", Slots(good=b"no text"), {"x": "it was worse"})
    with pytest.raises((TypeError, StateError)):
        store.store(RELEASE, "", Slots(good="2"), {"x": object()})
    assert (store.slots(RELEASE), store.ban_on("x")) == (TRIED, None)


def test_what_is_banned_is_listed_with_its_reason_and_has_no_end(store):
    store.ban({"x": "it was worse"})
    store.ban({"x": "it was slow", "y": "a person went back from it"})
    assert sorted((each["digest"], each["reason"], each["until_s"]) for each in store.bans()) == [
        ("x", "it was slow", None),
        ("y", "a person went back from it", None),
    ]


def test_a_ban_is_lifted_once_and_can_come_again(store):
    store.ban({"x": "it was worse"})
    assert (store.lift("x"), store.lift("x"), store.ban_on("x"), store.bans()) == (True, False, None, [])
    store.ban({"x": "again"})
    assert store.ban_on("x") == "again"


def test_a_dropped_kind_is_gone_of_every_release_and_nothing_else_is(store):
    store.store(RELEASE, "", TRIED, {"x": "it was worse"})
    for kind in (SHARED, PERSONAL):
        for release in ("r1", "r2"):
            store.store(kind, release, LEARNED, {})
    store.drop(PERSONAL)
    assert [store.slots(PERSONAL, release) for release in ("r1", "r2")] == [Slots(), Slots()]
    assert [store.slots(SHARED, release) for release in ("r1", "r2")] == [LEARNED, LEARNED]
    assert (store.slots(RELEASE), store.ban_on("x")) == (TRIED, "it was worse")
