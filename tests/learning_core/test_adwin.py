from math import log, log2, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning_core.memory.adwin import Rule, Window, step

RULE = Rule(every=1)


def run(stream, rule=RULE):
    window, found = Window(), []
    for at, value in enumerate(stream):
        window, drifted = step(window, float(value), rule)
        if drifted:
            found.append(at)
    return window, found


def test_the_sixth_bucket_of_a_size_makes_the_two_oldest_one():
    window, _ = run([1, 2, 3, 4, 5, 6], Rule(per_row=5, min_part=100))
    assert [[(bucket.num, bucket.total) for bucket in row] for row in window.rows] == [
        [(1, 6), (1, 5), (1, 4), (1, 3)],
        [(2, 3)],
    ]
    assert window.rows[1][0].squares == pytest.approx(0.5)  # of 1 and 2 about 1.5


def test_the_old_part_goes_when_the_means_differ_by_more_than_the_bound():
    """10 zeros, then ones: the whole is 10 + n numbers of variance 10n / (10 + n)^2; the bound is the paper's."""

    def bound(n):
        term = log(2 * log(10 + n) / 0.05)
        share, variance = 1 / 10 + 1 / n, 10 * n / (10 + n) ** 2
        return sqrt(2 * share * variance * term) + 2 / 3 * share * term

    first = next(n for n in range(5, 100) if bound(n) < 1)
    _, found = run([0] * 10 + [1] * 99, Rule(every=1, per_row=200))
    assert found[0] == 10 + first - 1


@given(st.lists(st.floats(-100, 100), max_size=80), st.integers(2, 6))
def test_the_window_holds_the_last_numbers_and_knows_their_mean_and_spread(values, per_row):
    window, _ = run(values, Rule(every=3, per_row=per_row))
    held = np.array(values[len(values) - window.whole.num :])
    assert sum(bucket.num for row in window.rows for bucket in row) == window.whole.num
    assert [len(row) <= per_row for row in window.rows] == [True] * len(window.rows)
    assert window.mean == pytest.approx(held.mean() if len(held) else 0.0, abs=1e-9)
    assert window.whole.squares == pytest.approx(np.sum((held - held.mean()) ** 2) if len(held) else 0, abs=1e-6)


def test_an_empty_and_a_constant_stream_have_no_drift():
    assert run([])[0].mean == 0.0
    window, found = run([3.0] * 300)
    assert (window.whole.num, window.mean, found) == (300, 3.0, [])


def test_memory_grows_with_the_logarithm_of_the_window():
    window, _ = run(np.zeros(5000), Rule(every=1000))
    assert sum(map(len, window.rows)) <= 5 * (1 + log2(5000))


def test_after_a_shift_the_window_is_about_the_new_mean():
    rng = np.random.default_rng(1)
    window, found = run(np.concatenate((rng.random(1000) < 0.2, rng.random(400) < 0.6)))
    assert 1000 < found[0] < 1060
    assert window.mean == pytest.approx(0.6, abs=0.1)
