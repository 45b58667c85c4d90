import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.router import AS_GOOD, Chosen, Measured, Needs, Refused, needs_of, route
from learning_core.errors import DewfallError
from protos.release import Variant, usual

USUAL = Measured(usual(10, 1.5), quality=0.99, latency_ms=3.0, joules=0.018)
INT8 = Measured(Variant("int8", "student_int8.onnx", 10, 1.5), quality=0.985, latency_ms=2.5, joules=0.015)
FEW = Measured(Variant("few_step", "student.onnx", 4, 1.5), quality=0.92, latency_ms=1.2, joules=0.007)
CHEAP = Measured(Variant("one_pass", "student.onnx", 4, 1.0), quality=0.85, latency_ms=0.6, joules=0.004)
TEACHER = Measured(Variant("fog_teacher", "fog:teacher", 10, 1.5), absent="is answered by a fog, and none offers it")
TABLE = (USUAL, INT8, FEW, CHEAP, TEACHER)

figures = st.floats(0, 1)
rows = st.builds(
    lambda name, quality, ms, joules: Measured(Variant(name, "student.onnx", 4, 1.0), quality, ms, joules),
    st.text("abc", min_size=1, max_size=4),
    figures,
    st.floats(0.01, 100),
    st.floats(1e-4, 10),
)


def chosen(needs=Needs(), headroom=1.0, joules_left=math.inf, floor=0.8, table=TABLE):
    found = route(table, needs, headroom, joules_left, floor)
    return found.variant.name if isinstance(found, Chosen) else found.reason


def test_a_cool_device_answers_as_well_as_usual_by_whatever_does_so_for_less():
    assert chosen() == "int8"
    assert chosen(table=(USUAL, replace(INT8, joules=0.02), FEW)) == "usual"


def test_a_variant_that_is_no_cheaper_loses_by_its_measured_cost():
    assert chosen(table=(USUAL, replace(INT8, joules=0.018001))) == "usual"


@pytest.mark.parametrize(("headroom", "name"), [(1.0, "int8"), (0.7, "few_step"), (0.2, "one_pass"), (0.0, "one_pass")])
def test_heat_costs_quality_down_to_the_owners_floor(headroom, name):
    assert chosen(headroom=headroom) == name


def test_a_device_at_its_limit_does_not_go_below_the_floor():
    assert chosen(headroom=0.0, floor=0.9) == "few_step"
    assert chosen(headroom=0.0, floor=0.999) == "int8"  # a floor above what there is asks for no more than usual


def test_a_request_with_a_floor_of_its_own_gets_the_cheapest_above_it_however_cool():
    assert chosen(Needs(min_quality=0.9)) == "few_step"
    assert chosen(Needs(min_quality=0.99), headroom=0.0) == "usual"


def test_quality_comes_first_and_what_cannot_be_kept_is_refused_with_the_figure():
    assert "takes at most 1 ms a sample: 'few_step' takes 1.2 ms" in chosen(Needs(min_quality=0.9, max_latency_ms=1.0))
    assert "costs at most 0.001 J" in chosen(Needs(max_joules=0.001))
    assert chosen(Needs(min_quality=0.8, max_latency_ms=1.0)) == "one_pass"


def test_a_variant_a_fog_would_have_to_answer_is_a_clear_refusal_while_none_offers_it():
    reason = chosen(Needs(min_quality=0.995))
    assert "no variant reaches a quality of 0.995: 'usual' has 0.99" in reason
    assert "'fog_teacher' is answered by a fog, and none offers it" in reason
    assert chosen(table=(TEACHER,)) == "'fog_teacher' is answered by a fog, and none offers it"


def test_a_teacher_that_is_there_answers_what_only_it_can():
    there = replace(TEACHER, quality=0.999, latency_ms=80.0, joules=0.001, absent="")
    assert chosen(Needs(min_quality=0.995), table=(*TABLE[:-1], there)) == "fog_teacher"


def test_the_days_energy_is_a_hard_cap_with_a_reason():
    assert chosen(joules_left=0.015) == "int8"
    assert "max_joules_per_day" in chosen(joules_left=0.0149)
    assert "max_joules_per_day" in chosen(joules_left=-1.0, table=(Measured(usual(10, 1.5)),))


def test_until_something_is_measured_the_usual_answers_and_promises_are_refused():
    new = tuple(Measured(each.variant) for each in TABLE[:-1])
    assert chosen(table=new) == "usual"
    assert "no variant has been measured yet" in chosen(Needs(max_latency_ms=5.0), table=new)


def test_a_request_for_several_has_its_bounds_for_all_of_them():
    assert Needs(0.9, 10.0, 2.0).each_of(4) == Needs(0.9, 2.5, 0.5)
    assert not Needs().each_of(4).is_bounded


@given(
    st.lists(rows, min_size=1, max_size=6, unique_by=lambda each: each.variant.name),
    st.builds(Needs, st.none() | figures, st.floats(0.01, 200), st.floats(1e-4, 20)),
    figures,
    st.floats(0, 20),
    figures,
)
def test_who_is_chosen_keeps_every_bound_and_nobody_cheaper_does(table, needs, headroom, joules_left, floor):
    found = route(table, needs, headroom, joules_left, floor)
    by_name = {each.variant.name: each for each in table}

    def keeps(each):
        wanted = needs.min_quality
        if wanted is None:
            top = table[0].quality - AS_GOOD
            wanted = min(floor, top) + headroom * (top - min(floor, top))
        return each.quality >= wanted and each.latency_ms <= needs.max_latency_ms and each.joules <= needs.max_joules

    if isinstance(found, Refused):
        assert found.reason
        assert not any(keeps(each) and each.joules <= joules_left for each in table)
        return
    winner = by_name[found.variant.name]
    assert keeps(winner)
    assert winner.joules <= joules_left
    assert not any(keeps(each) and each.joules < winner.joules for each in table)


@given(
    st.dictionaries(
        st.sampled_from(["min_quality", "max_ms", "max_joules"]),
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    )
)
def test_written_needs_are_understood_or_refused(header):
    try:
        needs = needs_of(header)
    except DewfallError:
        return
    assert needs.min_quality is None or 0 <= needs.min_quality <= 1
    assert needs.max_latency_ms > 0
    assert needs.max_joules > 0


@pytest.mark.parametrize("name", ["min_quality", "max_ms", "max_joules"])
def test_needs_that_mean_nothing_are_refused_by_name(name):
    for value in (True, "1", -1, math.nan, [1]):
        with pytest.raises(DewfallError, match=f"give {name} as a number"):
            needs_of({name: value})


def test_needs_as_they_are_written():
    assert needs_of({"min_quality": 1, "max_ms": 2.5}) == Needs(1, 2.5)
    assert needs_of({}) == Needs()
