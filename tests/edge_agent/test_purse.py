import datetime
import math

from hypothesis import given
from hypothesis import strategies as st
from paper import Paper

from edge_agent.purse import Purse

MONDAY, TUESDAY = datetime.date(2026, 1, 5), datetime.date(2026, 1, 6)


class Calendar:
    def __init__(self):
        self.day = MONDAY

    def __call__(self):
        return self.day


def test_what_was_spent_is_missing_and_midnight_fills_the_purse():
    day = Calendar()
    purse = Purse(Paper(), 100.0, 24.0, day)
    purse.spend(30.0)
    assert purse.left() == 70.0
    day.day = TUESDAY
    purse.look()
    assert purse.left() == 100.0
    day.day = MONDAY  # a clock set back finds what that day has cost
    purse.look()
    assert purse.left() == 70.0


def test_a_kill_gives_nothing_back():
    paper = Paper()
    purse = Purse(paper, 100.0, 24.0, Calendar())
    purse.look()
    purse.spend(10.0)
    assert Purse(paper, 100.0, 24.0, Calendar()).left() == 76.0  # booked ahead: at least what was spent
    purse.spend(10.0)
    purse.look()
    assert Purse(paper, 100.0, 24.0, Calendar()).left() == 100.0 - 44.0


def test_an_idle_agent_writes_nothing_and_one_without_a_cap_never():
    paper = Paper()
    purse = Purse(paper, 100.0, 24.0, Calendar())
    for _ in range(10):
        purse.look()
    assert paper.writes == 1
    free = Purse(paper, None, 24.0, Calendar())
    free.spend(1e6)
    free.look()
    assert paper.writes == 1
    assert free.left() == math.inf


@given(st.lists(st.floats(0, 12), max_size=30), st.integers(0, 29))
def test_between_two_looks_what_is_written_covers_what_is_spent(pieces, killed_at):
    paper = Paper()
    purse = Purse(paper, 1e4, 24.0, Calendar())
    spent = 0.0
    for number, joules in enumerate(pieces):
        purse.look()
        purse.spend(joules)
        spent += joules
        if number == killed_at:
            break
    again = Purse(paper, 1e4, 24.0, Calendar())
    assert again.spent_j >= spent - 1e-9 or not pieces
