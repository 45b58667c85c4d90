from hypothesis import given
from hypothesis import strategies as st

from cloud_server.measurement import Sampler
from cloud_server.releases import variants_of
from protos.release import STUDENT_GRAPH, STUDENT_INT8, usual

BOTH = {STUDENT_GRAPH, STUDENT_INT8}


def test_a_guided_sampler_has_four_ways_of_its_own_and_a_place_for_the_fogs():
    found = variants_of(Sampler(10, 1.5), BOTH)
    assert [(each.name, each.graph, each.steps, each.guidance) for each in found] == [
        ("usual", STUDENT_GRAPH, 10, 1.5),
        ("int8", STUDENT_INT8, 10, 1.5),
        ("few_step", STUDENT_GRAPH, 4, 1.5),
        ("one_pass", STUDENT_GRAPH, 4, 1.0),
        ("fog_teacher", "fog:teacher", 10, 1.5),
    ]


def test_without_guidance_fewer_steps_and_one_pass_are_the_same_way():
    assert [each.name for each in variants_of(Sampler(10, 1.0), BOTH)] == ["usual", "int8", "few_step", "fog_teacher"]


def test_a_student_that_integers_would_change_too_much_goes_without():
    assert "int8" not in {each.name for each in variants_of(Sampler(10, 1.5), {STUDENT_GRAPH})}


@given(st.integers(1, 1000), st.floats(0, 100))
def test_the_usual_way_is_first_and_no_two_are_alike(steps, guidance):
    found = variants_of(Sampler(steps, guidance), BOTH)
    assert found[0] == usual(steps, guidance)
    assert len({(each.graph, each.steps, each.guidance) for each in found}) == len(found)
    assert len({each.name for each in found}) == len(found)
    assert all(1 <= each.steps <= steps for each in found)
