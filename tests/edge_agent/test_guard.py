import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters import Worn, inputs_of
from edge_agent.drivers.onnx_engine import load_release
from edge_agent.examination import PAIRS, Base, Pace, base_of, golden_set, measure, nearness_of, pace_of
from edge_agent.guard import Accept, Guard, Hold, RollBack, sound, verdict
from learning_core.errors import Malformed
from learning_core.metrics.golden import NOT_FINITE, Figures
from learning_core.samples import Batch
from protos.release import usual

BASE = Figures(0.98, 0.05, 0.0, 0.9)
FAR = np.array([0.01, 0.1, 0.02, 0.05, 0.7])  # as far as healthy updates go


@pytest.fixture
def limits(release):
    return release.manifest  # fidelity may fall by .02, KID rise by .2, 5 % of values may be out of range


def judged(figures, limits, pace=None, **others):
    base = Base({"usual": BASE, "few_step": BASE}, {"usual": FAR, "few_step": FAR})
    return verdict({"usual": figures, **others}, base, limits, pace)


def test_a_student_within_what_healthy_updates_do_is_accepted(limits):
    assert isinstance(judged(BASE, limits), Accept)
    assert isinstance(judged(Figures(0.97, 0.15, 0.02, 0.85, nearness=0.5), limits), Accept)


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        (Figures(0.965, 0.05, 0.0, 0.9), "fidelity went 0.015"),
        (Figures(0.98, 0.20, 0.0, 0.9), "KID went 0.150"),
        (Figures(0.98, 0.05, 0.04, 0.9), "the share out of range went 0.040"),
        (Figures(0.98, 0.05, 0.0, 0.8), "agreement with the teacher went 0.100"),
        (Figures(0.98, 0.05, 0.0, 0.9, nearness=0.3), "likeness to what it learned from went 1.204"),
    ],
)
def test_each_figure_beyond_its_healthy_bound_holds(figures, reason, limits):
    checked = judged(figures, limits)
    assert isinstance(checked, Hold)
    assert len(checked.reasons) == 1
    assert reason in checked.reasons[0]


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        (Figures(0.95, 0.05, 0.0, 0.9), "fidelity fell by 0.030"),
        (Figures(0.98, 0.26, 0.0, 0.9), "KID rose by 0.210"),
        (Figures(0.98, 0.05, 0.06, 0.9), "0.060 of values are out of range"),
        (Figures(0.98, math.nan, 0.0, 0.9), "KID rose by nan"),
        (NOT_FINITE, "not finite"),
    ],
)
def test_each_hard_limit_rolls_back_with_its_figure(figures, reason, limits):
    checked = judged(figures, limits)
    assert isinstance(checked, RollBack)
    assert len(checked.reasons) == 1
    assert reason in checked.reasons[0]


def test_all_reasons_are_named(limits):
    assert len(judged(Figures(0.5, 9.0, 0.5), limits).reasons) == 3


def test_another_setting_can_only_hold_unless_it_draws_what_is_no_number(limits):
    held = judged(BASE, limits, few_step=Figures(0.5, 0.05, 0.0, 0.9))
    assert isinstance(held, Hold)
    assert held.reasons[0].startswith("as few_step: fidelity")
    assert isinstance(judged(BASE, limits, few_step=NOT_FINITE), RollBack)


def test_a_slow_student_is_held_and_never_banned(limits):
    assert isinstance(judged(BASE, limits, Pace(1.05, 1.1)), Accept)
    assert isinstance(judged(BASE, limits, Pace(1.2, 1.1)), Hold)
    assert isinstance(judged(BASE, limits, Pace(math.nan, 1.1)), Hold)


@given(st.floats(0, 1), st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1), st.floats(0, 2))
def test_what_is_worse_in_one_figure_never_fares_better(fidelity, kid, out_of_range, agreement, more):
    order = (Accept, Hold, RollBack)
    limits = type("Limits", (), {"max_fidelity_drop": 0.02, "max_kid_rise": 0.2, "max_out_of_range": 0.05})
    one = judged(Figures(fidelity, kid, out_of_range, agreement), limits)
    worse = judged(Figures(fidelity - more, kid + more, out_of_range + more, agreement - more), limits)
    assert order.index(type(worse)) >= order.index(type(one))


def checked(release, adapter, samples=None):
    return Guard().check(release, inputs_of(release, Worn(shared=adapter)), samples)


def test_the_base_itself_passes_its_golden_set(release):
    figures = measure(release.engine, release.judge, release.golden, 10, 1.0)
    assert (figures.fidelity, figures.finite) == (1.0, True)
    assert figures.agreement == pytest.approx(1)
    assert isinstance(sound(figures, release.golden, release.manifest), Accept)
    assert isinstance(sound(NOT_FINITE, release.golden, release.manifest), RollBack)


def test_an_adapter_that_only_adds_new_conditions_passes(release, stand_in):
    assert isinstance(checked(release, stand_in.good_adapter()), Accept)


def test_an_adapter_that_damages_old_conditions_is_rolled_back(release, stand_in):
    found = checked(release, stand_in.bad_adapter())
    assert isinstance(found, RollBack)
    assert found.figures.fidelity < 1


def test_an_adapter_that_draws_something_else_than_the_teacher_is_held(tmp_path, stand_in):
    manifest = stand_in.make_release(tmp_path / "1", max_kid_rise=10.0)
    release = load_release(tmp_path / "1", manifest, "")
    turned = stand_in.zero_adapter()["tm.0.lora_B"].copy()
    turned[0, 0] = -2  # the first of sixteen pixels of every sample changes its sign
    found = checked(release, stand_in.zero_adapter() | {"tm.0.lora_B": turned})
    assert isinstance(found, Hold)
    assert found.figures.fidelity == 1
    assert any("agreement with the teacher" in reason for reason in found.reasons)


def test_an_adapter_with_enormous_numbers_is_rolled_back_without_an_error(release, stand_in):
    adapter = stand_in.zero_adapter() | {"tm.0.lora_B": np.full((16, 2), 3e38, np.float32)}
    with np.errstate(all="ignore"):
        assert isinstance(checked(release, adapter), RollBack)


def test_a_student_that_repeats_its_samples_is_near_them_and_one_whose_samples_differ_is_not_told(release, stand_in):
    rng = np.random.default_rng(0)
    spread = (stand_in.centres()[7] + rng.normal(0, 0.2, (20, 16))).reshape(20, 1, 4, 4).astype(np.float32)
    samples = Batch(spread, np.full(20, 7))
    student = release.engine.adapted(inputs_of(release, Worn(shared=stand_in.good_adapter())))
    assert 0 < nearness_of(student, release, samples) < 1  # it draws the middle of them
    assert nearness_of(student, release, Batch(spread[:3], np.full(3, 7))) is None


def test_the_pace_is_a_ratio_of_medians_and_its_bound_what_the_bare_student_does_to_itself(release):
    ticks = iter([t for _ in range(PAIRS) for t in (0.0, 1.0, 0.0, 3.0, 0.0, 1.0)])
    pace = pace_of(release.engine, release, lambda: next(ticks))
    assert (pace.slowdown, pace.bound) == (pytest.approx(3), 1.1)


def test_a_base_is_measured_in_every_setting_of_its_own_and_only_once(release):
    base = base_of(release)
    assert base.figures.keys() == base.bounds.keys() == {"usual"}
    guard = Guard()
    assert guard.base(release) is guard.base(release)


def whole():
    return {
        "noise": np.zeros((2, 1, 4, 4), np.float32),
        "conditions": np.array([0, 1]),
        "real_features": np.zeros((2, 3), np.float32),
        "teacher": np.zeros((2, 1, 4, 4), np.float32),
        "healthy": np.zeros((1, 5, 5), np.float32),
        "base_fidelity": np.array([1.0], np.float32),
        "base_kid": np.array([0.0], np.float32),
    }


def test_a_golden_set_is_read_as_it_is(release):
    golden = golden_set(whole(), release.manifest)
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
        {"real_features": np.full((2, 3), np.nan, np.float32)},
        {"teacher": np.zeros((3, 1, 4, 4), np.float32)},
        {"healthy": np.zeros((1, 4, 5), np.float32)},
        {"healthy": np.zeros((2, 5, 5), np.float32)},
        {"healthy": np.zeros((5, 5), np.float32)},
        {"healthy": np.full((1, 5, 5), np.inf, np.float32)},
        {"base_kid": np.zeros(2, np.float32)},
        {"more": np.zeros(1, np.float32)},
    ],
)
def test_a_golden_set_that_does_not_fit_is_refused(odd, release):
    with pytest.raises(Malformed):
        golden_set(whole() | odd, release.manifest)


@given(
    st.dictionaries(
        st.sampled_from(sorted(whole())),
        st.builds(
            np.zeros,
            st.lists(st.integers(0, 3), max_size=4).map(tuple),
            st.sampled_from([np.float32, np.int64, np.uint8]),
        ),
    )
)
def test_whatever_a_golden_file_holds_it_is_read_or_refused(odd):
    manifest = type("Sizes", (), {"num_conditions": 10, "variants": (usual(10, 1.0),)})
    with contextlib.suppress(Malformed):
        golden_set(whole() | odd, manifest)
