import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.slots import (
    MAX_STARTS,
    NOTHING,
    PERSONAL,
    RELEASE,
    SHARED,
    Slots,
    below,
    decode_slots,
    digest_in,
    encode_slots,
    fallen_back,
    going_back,
    has_failed,
    passed,
    proven,
    started,
    stopped,
    tried,
)
from learning_core.errors import DewfallError, Malformed

EMPTY = {RELEASE: Slots(good="2"), SHARED: Slots(), PERSONAL: Slots()}


def test_something_new_is_on_trial_beside_what_is_good_and_then_good_itself():
    on_trial = tried(Slots(good="a"), "b")
    assert on_trial == Slots(good="a", trial="b", starts=1)
    assert on_trial.served == "b"
    assert passed(on_trial) == Slots(good="b", previous="a")
    assert passed(Slots(good="a")) == Slots(good="a")


def test_a_trial_that_fails_leaves_what_is_good_and_what_is_good_leaves_what_was():
    assert fallen_back(tried(Slots(good="a"), "b")) == Slots(good="a")
    assert fallen_back(Slots(good="b", previous="a")) == Slots(good="a")
    assert fallen_back(Slots(good="a")) == Slots()


def test_there_are_two_slots_so_a_new_trial_takes_the_place_of_the_last_one():
    assert tried(Slots(good="b", previous="a"), "c").kept == {"b", "c"}
    assert tried(Slots(good="a", trial="b", starts=2), "c") == Slots(good="a", trial="c", starts=1)
    assert tried(Slots(good="a", trial="b", starts=1), "a") == Slots(good="a")


def test_the_same_thing_once_more_changes_nothing_of_its_trial():
    assert tried(Slots(good="a", trial="b", starts=2), "b") == Slots(good="a", trial="b", starts=2)


def test_the_same_adapter_on_another_one_does_not_outlive_its_fall():
    assert fallen_back(tried(Slots(good="p@s1"), "p@s2")) == Slots()
    assert (digest_in("p@s2"), below("p@s2"), below("p")) == ("p", "s2", "")


def test_a_process_that_never_stays_up_ends_the_trial():
    slots = tried(Slots(good="a"), "b")
    for _ in range(MAX_STARTS - 1):
        slots = started(slots)
        assert not has_failed(slots)
    assert has_failed(started(slots))
    assert started(Slots(good="a")) == Slots(good="a")


def test_a_start_that_ends_in_order_does_not_count():
    slots = tried(Slots(good="a"), "b")
    for _ in range(2 * MAX_STARTS):
        slots = started(stopped(slots))
        assert not has_failed(slots)
    assert stopped(stopped(slots)).starts == 0
    assert stopped(Slots(good="a")) == Slots(good="a")


def test_a_personal_adapter_counts_only_on_the_shared_one_it_was_proven_on():
    assert proven(Slots(good="p@s"), Slots(good="s")) == Slots(good="p@s")
    assert proven(Slots(good="p@s"), Slots(good="s", trial="t")) == Slots()
    assert proven(Slots(), Slots()) == Slots()


def test_versions_only_grow_whatever_happens():
    slots = tried(Slots(good="1", newest=1), "3", 3)
    assert fallen_back(slots).newest == passed(slots).newest == tried(slots, "2", 2).newest == 3


def test_the_last_change_goes_back_first_and_a_good_release_only_when_asked_for():
    both = EMPTY | {SHARED: Slots(good="s", trial="t"), PERSONAL: Slots(good="p")}
    assert going_back(both, None) == (SHARED, Slots(good="s"))
    assert going_back(EMPTY | {PERSONAL: Slots(good="p"), SHARED: Slots(good="s")}, None)[0] == PERSONAL
    assert going_back(EMPTY | {RELEASE: Slots(good="2", trial="3")}, None) == (RELEASE, Slots(good="2"))
    assert going_back(both | {RELEASE: Slots(good="2", previous="1")}, RELEASE) == (RELEASE, Slots(good="1"))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [(None, "with --release"), (RELEASE, "no earlier release"), (PERSONAL, "no personal adapter")],
)
def test_where_there_is_nothing_to_go_back_to_that_is_said(asked, sentence):
    with pytest.raises(DewfallError, match=sentence):
        going_back(EMPTY, asked)


names = st.sampled_from(["a", "b", "c", "a@x", "a@y"])
steps = st.one_of(st.tuples(st.just(tried), names), st.sampled_from([(passed,), (fallen_back,), (started,)]))


@given(st.lists(steps, max_size=30))
def test_after_any_steps_there_are_at_most_two_things_and_what_is_stored_is_read_back(taken):
    slots = Slots()
    for step, *arguments in taken:
        before = slots
        slots = step(slots, *arguments)
        assert len(slots.kept) <= 2
        assert decode_slots(encode_slots(slots)) == slots
        if step is fallen_back and before.served:
            assert digest_in(slots.served) != digest_in(before.served)
        if step is tried:
            assert slots.served == arguments[0]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
field = st.sampled_from(Slots.__slots__)


@given(anything | st.dictionaries(field, anything) | st.fixed_dictionaries(dict.fromkeys(Slots.__slots__, anything)))
def test_whatever_was_stored_is_slots_or_refused(tree):
    with contextlib.suppress(Malformed):
        assert isinstance(decode_slots(tree), Slots)


def test_nothing_stored_is_nothing_served_and_three_things_are_refused():
    assert decode_slots(None).served == NOTHING
    with pytest.raises(Malformed, match="two slots"):
        decode_slots(encode_slots(Slots(good="a", trial="b", previous="c", starts=1)))
    with pytest.raises(ValueError, match="nothing"):
        tried(Slots(), NOTHING)
