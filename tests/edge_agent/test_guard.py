import math

import numpy as np
import pytest

from edge_agent.guard import Accept, Figures, RollBack, golden_set, measure, verdict
from edge_agent.values import Golden
from learning_core.errors import Malformed
from learning_core.federation.lora_algebra import serving_inputs

GOLDEN = Golden(np.zeros((2, 1, 4, 4), np.float32), np.array([0, 1]), np.zeros((2, 3), np.float32), 0.98, 0.05)


@pytest.fixture
def limits(release):
    return release.manifest  # fidelity may fall by .02, KID rise by .2, 5 % of values may be out of range


def test_a_student_as_good_as_its_base_is_accepted(limits):
    assert isinstance(verdict(Figures(0.98, 0.05, 0.0, True), GOLDEN, limits), Accept)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        (Figures(0.95, 0.05, 0.0, True), "fidelity fell by 0.030"),
        (Figures(0.98, 0.26, 0.0, True), "KID rose by 0.210"),
        (Figures(0.98, 0.05, 0.06, True), "0.060 of values are out of range"),
        (Figures(0.98, math.nan, 0.0, True), "KID rose by nan"),
        (Figures(1.0, 0.0, 0.0, False), "not finite"),
    ],
)
def test_each_limit_rolls_back_with_its_figure(figures, reason, limits):
    checked = verdict(figures, GOLDEN, limits)
    assert isinstance(checked, RollBack)
    assert len(checked.reasons) == 1
    assert reason in checked.reasons[0]


def test_all_reasons_are_named(limits):
    assert len(verdict(Figures(0.5, 9.0, 0.5, True), GOLDEN, limits).reasons) == 3


def measured(release, stand_in, adapter):
    inputs = serving_inputs(release.start, adapter, stand_in.CONDITIONS, stand_in.KNOWN)
    return measure(release.engine.adapted(inputs), release.judge, release.golden, 10, 1.0)


def test_the_base_itself_passes_its_golden_set(release):
    figures = measure(release.engine, release.judge, release.golden, 10, 1.0)
    assert figures.fidelity == 1.0
    assert figures.finite
    assert isinstance(verdict(figures, release.golden, release.manifest), Accept)


def test_an_adapter_that_only_adds_new_conditions_passes(release, stand_in):
    figures = measured(release, stand_in, stand_in.good_adapter())
    assert isinstance(verdict(figures, release.golden, release.manifest), Accept)


def test_an_adapter_that_damages_old_conditions_is_rolled_back(release, stand_in):
    figures = measured(release, stand_in, stand_in.bad_adapter())
    assert figures.fidelity < 1
    assert isinstance(verdict(figures, release.golden, release.manifest), RollBack)


def test_an_adapter_with_enormous_numbers_is_rolled_back_without_an_error(release, stand_in):
    adapter = stand_in.zero_adapter() | {"tm.0.lora_B": np.full((16, 2), 3e38, np.float32)}
    with np.errstate(all="ignore"):
        figures = measured(release, stand_in, adapter)
    assert isinstance(verdict(figures, release.golden, release.manifest), RollBack)


def whole():
    return {
        "noise": np.zeros((2, 1, 4, 4), np.float32),
        "conditions": np.array([0, 1]),
        "real_features": np.zeros((2, 3), np.float32),
        "base_fidelity": np.array([1.0], np.float32),
        "base_kid": np.array([0.0], np.float32),
    }


def test_a_golden_set_is_read_as_it_is():
    golden = golden_set(whole(), 10)
    assert (golden.base_fidelity, golden.base_kid, golden.noise.shape) == (1.0, 0.0, (2, 1, 4, 4))


@pytest.mark.parametrize(
    "odd",
    [
        {"noise": np.zeros((2, 16), np.float32)},
        {"noise": np.zeros((1, 1, 4, 4), np.float32), "conditions": np.array([0])},
        {"conditions": np.array([0, 10])},
        {"conditions": np.array([0, -1])},
        {"conditions": np.array([0, 1, 2])},
        {"conditions": np.array([0, 1], np.float32)},
        {"real_features": np.zeros(3, np.float32)},
        {"base_kid": np.zeros(2, np.float32)},
        {"more": np.zeros(1, np.float32)},
    ],
)
def test_a_golden_set_that_does_not_fit_is_refused(odd):
    with pytest.raises(Malformed):
        golden_set(whole() | odd, 10)
