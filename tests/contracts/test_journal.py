"""What every journal promises, whether it stays open or each call is a new process's."""

import numpy as np
import pytest

from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.values import Answer
from learning_core.errors import StateError
from learning_core.federation.accountant import Spending
from learning_core.updates import ClippedUpdate, ModelVersion, Update


@pytest.fixture
def journal(on_disk):
    return on_disk(SqliteJournal)


def answer(value=1.0):
    delta = {"rows": np.array([[value, -0.0, 1e-40]], np.float32), "empty": np.zeros((0, 2), np.float32)}
    return Answer(ClippedUpdate(Update(delta, 20, ModelVersion(3)), 1.5), {"loss": 0.1})


def spent(journal):
    return sorted((each.noise_multiplier, each.sample_rate, each.rounds) for each in journal.spendings())


def test_a_new_journal_knows_of_nothing(journal):
    assert (journal.answered("fog", 1), journal.answer("fog", 1), journal.spendings()) == (False, None, [])


def test_an_answer_comes_back_to_the_bit(journal):
    journal.record("fog", 1, answer(), Spending(1.0, 1.0, 1))
    found, sent = journal.answer("fog", 1), answer()
    assert journal.answered("fog", 1)
    assert (found.metrics, found.update.clip_norm) == (sent.metrics, sent.update.clip_norm)
    update, wanted = found.update.update, sent.update.update
    assert (update.num_examples, update.base_version) == (wanted.num_examples, wanted.base_version)
    assert {name: value.tobytes() for name, value in update.delta.items()} == {
        name: value.tobytes() for name, value in wanted.delta.items()
    }


def test_each_round_of_each_fog_has_its_own_answer(journal):
    journal.record("fog", 1, answer(), Spending(1.0, 1.0, 1))
    for fog, round_ in (("fog", 2), ("other", 1)):
        assert (journal.answered(fog, round_), journal.answer(fog, round_)) == (False, None)


def test_equal_charges_are_counted_together_and_others_apart(journal):
    for round_, noise in enumerate((1.0, 1.0, 2.0)):
        journal.record("fog", round_, answer(), Spending(noise, 0.5, 2))
    assert spent(journal) == [(1.0, 0.5, 4), (2.0, 0.5, 2)]


def test_a_round_is_answered_once_and_then_charged_no_more(journal):
    journal.record("fog", 1, answer(1.0), Spending(1.0, 1.0, 1))
    with pytest.raises(StateError):
        journal.record("fog", 1, answer(2.0), Spending(1.0, 1.0, 1))
    assert spent(journal) == [(1.0, 1.0, 1)]
    assert journal.answer("fog", 1).update.update.delta["rows"][0, 0] == 1.0


def test_a_fogs_latest_answers_are_kept_and_of_older_ones_that_they_were_given(journal):
    journal.record("rare", 1, answer(), Spending(1.0, 1.0, 1))
    for round_ in range(1, 16):
        journal.record("fog", round_, answer(round_), Spending(1.0, 1.0, 1))
    assert all(journal.answered("fog", round_) for round_ in range(1, 16))
    assert journal.answer("fog", 15).update.update.delta["rows"][0, 0] == 15
    assert journal.answer("fog", 1) is None
    assert journal.answer("rare", 1) is not None


def test_what_is_only_counted_charges_nothing(journal):
    journal.tally("declined")
    journal.tally("declined")
    assert (journal.spendings(), journal.answered("fog", 1)) == ([], False)
