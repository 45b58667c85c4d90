import numpy as np
import pytest

from fog_aggregator.selection import num_ready, sample, unready
from protos.flower_records import DeviceStatus

NODES = tuple(range(100, 1100))


def test_each_device_is_chosen_as_often_as_the_rate_says_and_independently_of_the_others():
    rng = np.random.default_rng(0)
    chosen = np.array([[node in set(sample(NODES[:50], 0.3, rng)) for node in NODES[:50]] for _ in range(4000)])

    assert np.abs(chosen.mean(axis=0) - 0.3).max() < 0.035  # about five standard errors
    pairs = np.corrcoef(chosen.T) - np.eye(50)
    assert np.abs(pairs).max() < 0.09
    sizes = chosen.sum(axis=1)  # Poisson sampling: the cohort's size varies like a binomial's
    assert sizes.var() == pytest.approx(50 * 0.3 * 0.7, rel=0.1)


def test_a_rate_of_one_takes_everybody_and_nobody_enrolled_gives_nobody():
    assert sample(NODES, 1.0, np.random.default_rng(0)) == NODES
    assert sample((), 0.5, np.random.default_rng(0)) == ()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "gave no answer to the status query"),
        (DeviceStatus(True, "", 2, 9, {}), None),
        (DeviceStatus(False, "heat: 80 C", 2, 9, {}), "heat: 80 C"),
        (DeviceStatus(False, "", 2, 9, {}), "not ready"),
        (DeviceStatus(True, "", 1, 9, {}), "serves release 1, not 2"),
    ],
)
def test_a_table_of_devices(status, reason):
    assert unready(status, 2) == reason


def test_only_those_on_the_release_count_as_ready():
    statuses = {1: DeviceStatus(True, "", 2, 9, {}), 2: DeviceStatus(True, "", 1, 9, {})}

    assert num_ready(statuses, 2) == 1
