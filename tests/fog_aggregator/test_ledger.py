import math

import pytest

from fog_aggregator.ledger import highest, over_budget, spent
from fog_aggregator.plans import Budget, Terms
from learning_core.federation.accountant import Spending

DELTA = 1e-5
MOVED = (Spending(2.0, 0.1, 50), Spending(1.2, 0.05, 50))


def test_each_device_pays_for_its_own_history_wherever_its_rounds_were_run():
    costs = spent({1: (MOVED[0],), 2: (MOVED[1],), 3: MOVED, 4: ()}, DELTA)

    assert costs[3] == pytest.approx(2.716, abs=0.001)
    assert max(costs[1], costs[2]) < costs[3] < costs[1] + costs[2]
    assert costs[4] == 0.0


def test_the_site_states_the_epsilon_of_the_device_charged_most():
    histories = {1: (Spending(1.0, 0.1, 100),), 2: (Spending(1.0, 0.1, 3),)}

    assert highest(histories, [1, 2, 3], DELTA) == pytest.approx(7.90, abs=0.005)
    assert highest(histories, [], DELTA) == 0.0


def test_a_round_is_refused_for_the_devices_it_would_take_past_the_budget():
    histories = {1: (Spending(1.0, 0.1, 100),), 2: (Spending(1.0, 0.1, 3),)}
    terms = Terms(1.0, 1.0, 0.1)

    assert over_budget(histories, [1, 2, 3], terms, Budget(DELTA, 7.92)) == [1]
    assert over_budget(histories, [1, 2, 3], terms, Budget(DELTA, 7.95)) == []
    assert over_budget(histories, [1, 2, 3], terms, Budget(DELTA, 0.001)) == [1, 2, 3]


def test_a_device_that_was_never_charged_counts_with_the_first_round():
    first = spent({1: (Spending(0.5, 0.9, 1),)}, DELTA)[1]

    assert over_budget({}, [1], Terms(1.0, 0.5, 0.9), Budget(DELTA, first * 0.999)) == [1]
    assert over_budget({}, [1], Terms(1.0, 0.5, 0.9), Budget(DELTA, first * 1.001)) == []


def test_only_an_infinite_budget_allows_rounds_without_noise():
    assert over_budget({}, [1], Terms(1.0, 0.0, 0.5), Budget(DELTA, 1e300)) == [1]
    assert over_budget({}, [1], Terms(1.0, 0.0, 0.5), Budget(DELTA, math.inf)) == []
