"""What the stream shows of itself: it drifts, it narrows, it surprises; and usually it does none of it."""

import numpy as np
import pytest

from edge_agent.signs import WINDOW, StreamWatch
from edge_agent.status import describe_stream, samples_in_words
from edge_agent.values import StreamSigns
from learning_core.memory.novelty import NOTHING, Kept

WIDTH = 8
PLACES = np.eye(3, WIDTH, dtype=np.float32) * 3


def passed(watch, count, rng, centre=0.0, spread=1.0, flip=False, kept=True):
    for _ in range(count):
        condition = int(rng.integers(3))
        embedding = PLACES[condition] + centre + spread * rng.standard_normal(WIDTH, np.float32)
        watch.take(embedding.astype(np.float32), (condition + flip) % 3, kept)
    return watch.signs


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def watch(rng):
    watch = StreamWatch(rng)
    watch.begin("release-1", NOTHING, 3)
    return watch


def test_nothing_is_said_before_enough_has_passed(watch, rng):
    signs = passed(watch, 2 * WINDOW - 1, rng)
    assert (signs.drift, signs.diversity) == (None, None)
    assert signs.seen == 2 * WINDOW - 1
    assert describe_stream(StreamSigns())["surprise"] is None


def test_a_stream_that_stays_as_it_was_alarms_hardly_ever(watch, rng):
    signs = passed(watch, 40 * WINDOW, rng)
    assert signs.drifted + signs.narrowed <= 2
    assert signs.surprised == 0
    assert abs(signs.drift) < 0.02
    assert signs.surprise < 0


def test_one_that_moves_away_is_said_once_and_then_is_the_usual_one(watch, rng):
    passed(watch, 4 * WINDOW, rng)
    signs = passed(watch, WINDOW, rng, centre=2.0)
    assert signs.drifted == 1
    assert signs.drift > 0.05
    assert passed(watch, 6 * WINDOW, rng, centre=2.0).drifted == 1


def test_when_samples_are_forgotten_it_keeps_none_and_begins_anew(watch, rng):
    before = passed(watch, 4 * WINDOW + 7, rng)
    watch.forget()
    assert (watch._reader, watch._reference, watch._current) == (None, None, [])
    watch.begin("release-1", Kept.of(PLACES, np.arange(3)), 3)
    assert watch._reader is not None
    assert watch.signs == before


def test_one_that_becomes_all_alike_narrows(watch, rng):
    passed(watch, 2 * WINDOW, rng)
    for _ in range(WINDOW):
        watch.take((PLACES[0] + 0.01 * rng.standard_normal(WIDTH)).astype(np.float32), 0, False)
    assert watch.signs.narrowed == 1
    assert watch.signs.diversity < watch.signs.usual_diversity


def test_a_person_is_told_of_alarms_and_of_nothing_else():
    samples = {"seen": 9, "kept": 3, "dropped": 5, "unsure": 1}
    line = "samples: 9 seen, 3 kept, 5 dropped, 1 set aside for `label`"
    assert samples_in_words(samples, describe_stream(StreamSigns(drift=0.5))) == line
    told = samples_in_words({**samples, "unsure": 0}, describe_stream(StreamSigns(drifted=2, surprised=1)))
    assert told == "samples: 9 seen, 3 kept, 5 dropped; the stream drifted 2 times, surprised 1 times"


def test_conditions_that_mean_something_else_surprise(watch, rng):
    before = passed(watch, 3 * WINDOW, rng).surprise
    signs = passed(watch, 2 * WINDOW, rng, flip=True, kept=False)
    assert signs.surprise > 0 > before
    assert signs.surprised >= 1


def test_another_release_begins_anew_and_its_reader_knows_what_is_kept(rng):
    watch = StreamWatch(rng)
    conditions = np.repeat(np.arange(3), 20)
    rows = (PLACES[conditions] + 0.1 * rng.standard_normal((60, WIDTH))).astype(np.float32)
    watch.begin("release-2", Kept.of(rows, conditions), 3)
    assert passed(watch, 1, rng, spread=0.1).surprise < 0
    passed(watch, WINDOW, rng)
    watch.begin("release-3", NOTHING, 3)
    assert passed(watch, WINDOW, rng).drift is None


def test_what_is_not_finite_and_too_many_conditions_are_left_out(rng):
    watch = StreamWatch(rng)
    watch.begin("release-1", NOTHING, 1 << 20)
    watch.take(np.full(WIDTH, np.nan, np.float32), 0, True)
    assert watch.signs == StreamSigns()
    watch.take(np.ones(WIDTH, np.float32), 1, True)
    assert (watch.signs.seen, watch.signs.surprise) == (1, None)
