import numpy as np
import pytest

from simulations.bench.fog_and_device import PAYLOADS
from simulations.bench.rounds import claims, interval, median

PLAYED = [{"seconds": 0.02 + 0.001 * number, "query_s": 0.01, "train_s": 0.01} for number in range(21)]


def test_the_ratio_is_of_medians_and_its_interval_contains_it():
    found = {claim.id: claim for claim in claims({"rounds": PLAYED, "flower_s": [6.0, 9.0, 12.0]})}
    assert found.keys() == {"rounds.median_s", "rounds.p95_s", "rounds.ratio_to_flower"}
    assert found["rounds.median_s"].value == pytest.approx(0.03)
    assert found["rounds.p95_s"].value == pytest.approx(0.039)
    ratio = found["rounds.ratio_to_flower"]
    assert ratio.value == pytest.approx(300.0)
    assert ratio.low < ratio.value < ratio.high
    assert {claim.verdict for claim in found.values()} == {"holds"}


def test_a_ratio_that_might_be_too_small_is_inconclusive():
    found = claims({"rounds": [{**round_, "seconds": 0.7} for round_ in PLAYED], "flower_s": [6.0, 9.0, 12.0]})
    assert [claim.verdict for claim in found] == ["falls", "holds", "inconclusive"]


def test_without_flower_there_is_no_ratio():
    assert len(claims({"rounds": PLAYED, "flower_s": []})) == 2


def test_equal_values_leave_no_room():
    assert interval([2.0, 2.0, 2.0], median) == (2.0, 2.0)


def test_the_payloads_are_as_large_as_they_say():
    sizes = {name: 4 * sum(int(np.prod(shape)) for shape in shapes.values()) for name, shapes in PAYLOADS.items()}
    assert sizes == {"one array": 400_000, "adapter": 77_056}
