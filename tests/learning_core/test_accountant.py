import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.federation.accountant import Spending, divergences, epsilon, moment_by_integral, moment_by_sum

DELTA = 1e-5
multipliers = st.floats(0.05, 50.0)
rates = st.floats(1e-4, 1.0)
spendings = st.builds(Spending, multipliers, rates, st.integers(0, 200))


@pytest.mark.parametrize(
    ("history", "expected"),
    [  # Opacus 1.6 and dp-accounting 0.6 agree on these
        ([Spending(1.0, 0.1, 100)], 7.90),
        ([Spending(1.0, 0.01, 1000)], 2.1014),
        ([Spending(1.0, 0.2, 50)], 11.29),
        ([Spending(2.0, 0.5, 50)], 10.28),
        ([Spending(4.0, 1.0, 50)], 9.24),
        ([Spending(10.0, 1.0, 100)], 4.73),
        ([Spending(0.8, 0.05, 200)], 8.73),
        ([Spending(2.0, 0.1, 50), Spending(1.2, 0.05, 50)], 2.716),
    ],
)
def test_the_published_figures_come_out(history, expected):
    assert epsilon(history, DELTA) == pytest.approx(expected, abs=0.006)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "history",
    [[(1.0, 0.1, 100)], [(0.5, 0.3, 10)], [(0.2, 0.5, 4)], [(0.05, 0.9, 4)], [(2.0, 0.1, 50), (1.2, 0.05, 50)]],
)
def test_opacus_agrees(history):
    rdp = pytest.importorskip("opacus.accountants").RDPAccountant()
    rdp.history = history

    assert epsilon([Spending(*each) for each in history], DELTA) == pytest.approx(rdp.get_epsilon(DELTA), rel=1e-6)


@pytest.mark.parametrize("order", [2, 3, 8, 33])
@pytest.mark.parametrize(("multiplier", "rate"), [(0.3, 0.01), (1.0, 0.1), (5.0, 0.9)])
def test_two_ways_to_the_same_moment(order, multiplier, rate):
    assert moment_by_integral(multiplier, rate, order) == pytest.approx(
        moment_by_sum(multiplier, rate, order), rel=1e-9, abs=1e-12
    )


def test_the_second_moment_has_its_closed_form():
    assert moment_by_sum(2.0, 0.3, 2) == pytest.approx(math.log1p(0.3**2 * math.expm1(1 / 4)))


@pytest.mark.parametrize("history", [[], [Spending(1.0, 0.5, 0)], [Spending(0.0, 0.5, 0)], [Spending(0.0, 0.0, 9)]])
def test_what_never_happened_costs_nothing(history):
    assert epsilon(history, DELTA) == 0.0


def test_one_round_without_noise_costs_everything():
    assert epsilon([Spending(1.0, 0.1, 1), Spending(0.0, 0.1, 1)], DELTA) == math.inf


@pytest.mark.parametrize(("multiplier", "least"), [(0.03, 2222), (0.001, 2_000_000), (1e-9, 2e18)])
def test_hardly_any_noise_costs_a_huge_finite_amount(multiplier, least):
    spent = epsilon([Spending(multiplier, 0.9, 4)], DELTA)

    assert least < spent < 1.2 * least  # four unsampled rounds have divergence 2 / multiplier^2


@settings(deadline=None, max_examples=30)  # a new setting costs an integral at each order
@given(st.lists(spendings, max_size=4), spendings)
def test_another_round_never_makes_it_cheaper(history, more):
    assert epsilon([*history, more], DELTA) >= epsilon(history, DELTA)


@settings(deadline=None, max_examples=30)  # a new setting costs an integral at each order
@given(st.lists(spendings, max_size=4), st.randoms())
def test_neither_order_nor_grouping_matters(history, random):
    mixed = [Spending(each.noise_multiplier, each.sample_rate, 1) for each in history for _ in range(each.rounds)]
    random.shuffle(mixed)

    assert epsilon(mixed, DELTA) == pytest.approx(epsilon(history, DELTA))


@settings(deadline=None, max_examples=30)  # a new setting costs an integral at each order
@given(multipliers, rates)
def test_sampling_never_costs_and_noise_always_helps(multiplier, rate):
    assert (divergences(multiplier, rate) <= divergences(multiplier, 1.0)).all()
    assert (divergences(2 * multiplier, rate) <= divergences(multiplier, rate) + 1e-12).all()
    assert np.isfinite(divergences(multiplier, rate)).all()


def test_two_fogs_cost_a_device_that_moved_more_than_the_dearer_one_but_less_than_their_sum():
    here, there = Spending(2.0, 0.1, 50), Spending(1.2, 0.05, 50)

    both = epsilon([here, there], DELTA)

    assert max(epsilon([here], DELTA), epsilon([there], DELTA)) < both
    assert both < epsilon([here], DELTA) + epsilon([there], DELTA)


@pytest.mark.parametrize("wrong", [Spending(-1.0, 0.1, 1), Spending(1.0, 1.1, 1), Spending(1.0, 0.1, -1)])
def test_a_round_that_cannot_be_is_an_error(wrong):
    with pytest.raises(ValueError, match="no round"):
        epsilon([wrong], DELTA)


@pytest.mark.parametrize("target_delta", [0.0, 1.0, -1.0, math.nan])
def test_delta_is_a_probability(target_delta):
    with pytest.raises(ValueError, match="target_delta"):
        epsilon([], target_delta)
