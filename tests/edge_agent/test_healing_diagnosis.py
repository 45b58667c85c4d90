from dataclasses import replace

import numpy as np
import pytest
from sound_evidence import GOOD, sound_evidence

from edge_agent.healing.diagnosis import Cause, Exam, Margins, diagnose

BAD = Exam(0.7, 0.6, 0.01)
SOUND = sound_evidence(20, 12)
LOST = {"live": np.where(np.arange(20) % 2, 0.8, 0.0), "differs": np.arange(20) % 2 == 0}
FLICKER = {"flicker": 0.3, "differs": np.ones(20, bool), "live": np.tile([0.75, 0.85], 10)}
SIGNS = {
    Cause.CORRUPT: {"files_sound": False},
    Cause.MODEL: {"model": 0.2, "exam": BAD},
    Cause.SAMPLER: {"sampler": 0.4},
    Cause.NONDETERMINISM: FLICKER,
    Cause.CONDITION: LOST,
    Cause.INPUT: {"live": np.full(20, 0.4), "as_set": np.full(20, 0.4), "direct": np.full(12, 0.4)},
    Cause.THROTTLE: {"slow_pass": 1.5, "slow_request": 1.5},
    Cause.HARMLESS: {"model": 0.2, "exam": GOOD},
}


def causes(**changes):
    return diagnose(replace(SOUND, **changes), Margins())


def test_where_nothing_is_wrong_nothing_is_named():
    assert causes() == ()


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_alone_is_named_alone(cause):
    assert causes(**SIGNS[cause]) == (cause,)


@pytest.mark.parametrize(
    "pair",
    [
        (Cause.MODEL, Cause.SAMPLER),
        (Cause.MODEL, Cause.THROTTLE),
        (Cause.CORRUPT, Cause.SAMPLER),
        (Cause.SAMPLER, Cause.THROTTLE),
        (Cause.CONDITION, Cause.THROTTLE),
        (Cause.INPUT, Cause.THROTTLE),
        (Cause.SAMPLER, Cause.NONDETERMINISM),
    ],
)
def test_two_causes_are_named_together(pair):
    assert causes(**SIGNS[pair[0]], **SIGNS[pair[1]]) == pair


def test_a_condition_lost_now_and_then_is_not_flicker_although_equal_requests_differ():
    assert causes(**LOST, flicker=0.2) == (Cause.CONDITION,)


def test_flicker_over_lost_conditions_shows_both():
    both = {"flicker": 0.3, "differs": np.ones(20, bool), "live": np.tile([0.8, 0.1], 10)}
    assert causes(**both) == (Cause.NONDETERMINISM, Cause.CONDITION)


def test_guidance_that_takes_twice_the_passes_is_not_throttling():
    assert causes(sampler=0.4, slow_request=1.0) == (Cause.SAMPLER,)


def test_a_cheaper_variant_in_time_ends_throttling_although_passes_stay_slow():
    assert causes(slow_pass=1.5, slow_request=-0.1) == ()


def test_a_student_that_is_bad_by_itself_is_not_blamed_on_what_is_asked():
    worse = {"live": np.full(20, 0.3), "as_set": np.full(20, 0.3), "direct": np.full(12, 0.3)}
    assert causes(**SIGNS[Cause.MODEL], **worse) == (Cause.MODEL,)


def test_good_answers_from_a_cache_end_bad_input_and_lost_conditions():
    cached = {"live": np.full(20, 0.9), "differs": np.ones(20, bool)}
    assert causes(**cached, direct=np.full(12, 0.3), as_set=np.full(20, 0.3)) == ()


def test_a_student_that_draws_nonsense_does_harm():
    assert causes(model=1.0, exam=Exam(float("nan"), -1.0, 1.0)) == (Cause.MODEL,)
