"""The thermal model of a device: its arithmetic, what a fit recovers of a simulated one, and what it refuses."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.forecast import Course, followed, prospect, seconds_to, trend_of
from edge_agent.thermal_fit import NoFit, Sample, ThermalFit, fit
from edge_agent.thermal_model import (
    Outlook,
    Rise,
    ThermalModel,
    advance,
    decode_model,
    encode_model,
    network,
    seconds_until,
    simulate,
)
from simulations.physics import Board, DeviceState, step

MODEL = ThermalModel(rest_c=40.0, die_k=10.0, die_s=10.0, body_k=20.0, body_s=200.0)
BOARDS = {  # simulated: constants of a size that boards have, and of no board
    "small": Board(),
    "finned": Board(die_capacity=8.0, body_to_air=7.0, body_capacity=60.0),
    "heavy": Board(die_capacity=2.0, body_to_air=6.0, body_capacity=80.0),
}


def test_a_mode_has_reached_63_percent_after_its_time_constant():
    rise = advance(Rise(), MODEL, load=1.0, dt_s=10.0)
    assert rise.die_k == pytest.approx(10 * (1 - math.exp(-1)))
    assert rise.body_k == pytest.approx(20 * (1 - math.exp(-0.05)))


def test_two_steps_are_one_and_no_load_leads_back_to_rest():
    half = advance(advance(Rise(3.0, 4.0), MODEL, 0.5, 7.0), MODEL, 0.5, 5.0)
    whole = advance(Rise(3.0, 4.0), MODEL, 0.5, 12.0)
    assert (half.die_k, half.body_k) == (pytest.approx(whole.die_k), pytest.approx(whole.body_k))
    assert list(simulate(MODEL, iter([(1e6, 1.0), (1e6, 0.0)]), Rise())) == [pytest.approx(70.0), pytest.approx(40.0)]


def test_the_time_to_a_limit_is_that_of_the_exponentials():
    die_only = Outlook(MODEL, die_k=10.0, body_k=0.0)
    assert seconds_until(55.0, 50.0, die_only) == pytest.approx(10 * math.log(2), rel=1e-3)
    assert seconds_until(60.1, 50.0, die_only) == math.inf
    assert seconds_until(50.0, 50.0, die_only) == 0.0
    careful = replace(die_only, model=replace(MODEL, margin_c=2.0))
    assert seconds_until(57.0, 50.0, careful) == pytest.approx(10 * math.log(2), rel=1e-3)
    falls_later = Outlook(MODEL, die_k=10.0, body_k=-20.0)
    assert 0 < seconds_until(56.0, 50.0, falls_later) < 30


@given(st.floats(-20, 40), st.floats(-20, 40), st.floats(0, 50))
def test_a_higher_limit_is_never_reached_sooner(die_k, body_k, gap_k):
    outlook = Outlook(MODEL, die_k, body_k)
    assert seconds_until(50.0 + gap_k, 50.0, outlook) <= seconds_until(51.0 + gap_k, 50.0, outlook)


def test_a_network_has_the_models_steady_rise_and_the_twins_constants():
    board = BOARDS["small"]
    r1, r2, c1, c2 = board.die_to_body, board.body_to_air, board.die_capacity, board.body_capacity
    system = np.array([[-1 / (r1 * c1), 1 / (r1 * c1)], [1 / (r1 * c2), -(1 / r1 + 1 / r2) / c2]])
    values, vectors = np.linalg.eig(system)
    shares = np.linalg.solve(vectors, [1 / c1, 0.0]) * vectors[0] / -values * board.learning_w
    order = np.argsort(values)  # the fastest first
    die_s, body_s = -1 / values[order]
    die_k, body_k = shares[order]
    found = network(ThermalModel(30.0, *map(float, (die_k, die_s, body_k, body_s))), board.learning_w)
    assert die_k + body_k == pytest.approx(board.learning_w * (r1 + r2))
    assert (found.die_to_body, found.body_to_air) == (pytest.approx(r1), pytest.approx(r2))
    assert (found.die_capacity, found.body_capacity) == (pytest.approx(c1), pytest.approx(c2))


@cache
def course_of(board, stages):
    """The temperature and load of a simulated board at each second of a calibration, not settled when it begins."""
    state, seen = DeviceState(board.ambient_c + 10, board.ambient_c + 8), []
    for at_s in range(sum(stages)):
        load = float(stages[0] <= at_s < stages[0] + stages[1])
        for _ in range(20):  # small steps: the twin integrates by Euler
            state = step(state, board, load, 0.05)
        seen.append((state.die_c, load))
    return seen


def run(board, seed, noise_c=0.5, grain_c=0.0, stages=(180, 300, 300)):
    """What its thermometer says of that, with noise, and rounded to whole grains."""
    rng, samples = np.random.default_rng(seed), []
    for at_s, (temp_c, load) in enumerate(course_of(board, stages), 1):
        read_c = temp_c + rng.normal(0, noise_c)
        samples.append(Sample(float(at_s), round(read_c / grain_c) * grain_c if grain_c else read_c, load))
    return samples


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize(("noise_c", "grain_c"), [(0.5, 0.0), (0.3, 1.0)])
def test_a_fit_recovers_a_simulated_board_within_a_tenth(name, noise_c, grain_c):
    board = BOARDS[name]
    true = np.array([board.die_to_body, board.body_to_air, board.die_capacity, board.body_capacity])
    off = []
    for seed in range(3):
        found = fit(run(board, seed, noise_c, grain_c))
        assert isinstance(found, ThermalFit)
        assert found.rms_c < 0.6
        ladder = network(found.model, board.learning_w)
        got = [ladder.die_to_body, ladder.body_to_air, ladder.die_capacity, ladder.body_capacity]
        off.append(np.array(got) / true - 1)
    assert np.abs(off).max() < 0.1


def test_the_stated_errors_hold_the_truth_about_as_often_as_they_say():
    """Standard errors: over many seeds about two thirds of the estimates lie within one, nearly all within three."""
    board = BOARDS["small"]
    exact = fit(run(board, 0, noise_c=0.0)).model
    off = []
    for seed in range(8):
        found = fit(run(board, seed))
        off += [
            abs(getattr(found.model, name) - getattr(exact, name)) / found.errors[name]
            for name in ("die_s", "body_s", "die_k", "body_k")
        ]
    assert np.mean(np.array(off) < 3) >= 0.9
    assert 0.4 <= np.mean(np.array(off) < 1) <= 0.95


RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([], "too few"),
        (run(BOARDS["small"], 0)[:59], "too few"),
        ([Sample(float(n), 45.0 + RNG.normal(), 0.0) for n in range(300)], "less than half a core"),
        ([Sample(float(n), 45.0, float(100 < n < 200)) for n in range(300)], "only"),
        ([Sample(float(n), 45.0 + RNG.normal(0, 9), float(100 < n < 200)) for n in range(300)], "did not follow"),
        ([Sample(0.0, 45.0, 1.0) for _ in range(300)], "order of time"),
        ([Sample(float(n), math.nan, 1.0) for n in range(300)], "order of time"),
        ([Sample(each.at_s, 90 - each.temp_c, each.load) for each in run(BOARDS["small"], 0)], "no sense"),
        (run(BOARDS["heavy"], 0, stages=(20, 25, 20)), ""),
    ],
)
def test_nonsense_is_refused_with_a_sentence(samples, why):
    found = fit(samples)
    assert isinstance(found, NoFit)
    assert why in found.reason


@pytest.mark.parametrize(
    "odd",
    [
        {"die_k": -1.0},
        {"body_k": 0.0},
        {"die_s": 300.0},
        {"rest_c": math.nan},
        {"margin_c": -0.1},
        {"die_s": "10"},
        {"more": 1.0},
    ],
)
def test_a_stored_model_that_makes_no_sense_is_none(odd):
    assert decode_model(encode_model(MODEL)) == MODEL
    assert decode_model(encode_model(MODEL) | odd) is None


NAMES = st.sampled_from(list(encode_model(MODEL))) | st.text(max_size=3)
LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=3)


@given(LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(NAMES, LEAVES, max_size=5))
def test_whatever_a_state_folder_holds_is_a_model_or_none(tree):
    assert decode_model(tree) is None


def follow(board, model, learns_from_s, until_s, ambient_drift_c=0.0, seed=0):
    """A simulated board that starts to learn: its course, its temperature and its state at the end."""
    rng, state, course = np.random.default_rng(seed), DeviceState(board.ambient_c + 9.6, board.ambient_c + 6), Course()
    board = replace(board, ambient_c=board.ambient_c + ambient_drift_c)
    for half_s in range(int(2 * until_s)):
        load = float(half_s / 2 >= learns_from_s)
        for _ in range(10):
            state = step(state, board, load, 0.05)
        course = followed(course, model, half_s / 2, state.die_c + rng.normal(0, 0.2), load, window_s=20.0)
    return course, state


def truth(board, state, limit_c):
    for passed in range(20 * 600):
        if state.die_c >= limit_c:
            return passed / 20
        state = step(state, board, 1.0, 0.05)
    return math.inf


@pytest.mark.parametrize("drift_c", [0.0, 10.0])  # a room that is as warm as on the day of the calibration, and one not
def test_a_calibrated_device_foresees_its_heat_better_than_a_straight_line(drift_c):
    """Simulated: how far the forecasts of the time to a limit are off while the die warms up, over eight seeds."""
    board = BOARDS["small"]
    model = fit(run(board, 0)).model
    model = replace(model, margin_c=0.0)
    line_off, model_off = [], []
    for seed in range(8):
        for after_s in (10.0, 15.0, 20.0):  # of learning
            course, state = follow(board, model, 60.0, 60.0 + after_s, drift_c, seed)
            limit_c = state.die_c + 8.0
            really_s = min(300.0, truth(replace(board, ambient_c=board.ambient_c + drift_c), state, limit_c))
            line_s = seconds_to(limit_c, state.die_c, trend_of(course.moments, 20.0))
            model_s = seconds_to(limit_c, state.die_c, prospect(course, model, 20.0))
            line_off.append(abs(min(300.0, line_s) - really_s))
            model_off.append(abs(min(300.0, model_s) - really_s))
    assert np.median(model_off) < np.median(line_off) / 2


def test_a_forecast_before_learning_begins_counts_what_learning_will_add():
    board = BOARDS["small"]
    model = fit(run(board, 0)).model
    course, state = follow(board, model, 1e9, 60.0)
    idle = prospect(course, model, 20.0)
    assert idle.die_k == pytest.approx(model.die_k, abs=0.5)
    assert idle.body_k == pytest.approx(model.body_k, abs=4.0)
    assert seconds_to(state.die_c + model.die_k, state.die_c, idle) < 60
    assert trend_of(course.moments, 20.0) is not None


def test_without_temperatures_there_is_no_forecast_and_a_clock_set_back_does_no_harm():
    course = followed(Course(), MODEL, 100.0, None, 1.0, 20.0)
    assert prospect(course, MODEL, 20.0) is None
    assert followed(course, MODEL, 5.0, 50.0, 1.0, 20.0).moments == ((5.0, 50.0),)
