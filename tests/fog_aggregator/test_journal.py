import math
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest

from fog_aggregator.drivers.journal_file import NAME, JournalFile
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment, TokenUse
from fog_aggregator.drivers.sqlite_journal import SqliteJournal
from fog_aggregator.plans import Device, Mirrored, RoundOutcome, RoundPlan, Terms
from learning_core.errors import StateError
from learning_core.federation.accountant import Spending
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import Ack, AckVerdict

SHAPES = {"w": (3,)}
TERMS = Terms(0.7, 1.1, 0.5)
NODES = (2**64 - 1, 3)  # a node id has 64 bits, more than SQLite's integers
ACCEPTED = Ack(AckVerdict.ACCEPTED, "", ModelVersion(1, 1))


@pytest.fixture
def file(tmp_path):
    file = JournalFile(tmp_path)
    yield file
    file.close()


@pytest.fixture
def journal(file):
    enrolment = SqliteEnrolment(file)
    for node in NODES:
        enrolment.admit(Device(node, f"device-{node % 10}", f"key {node}".encode()))
    journal = SqliteJournal(file, "fog-a")
    journal.adopt_release(Mirrored(1, "ab" * 32), SHAPES)
    return journal


def plan(number=1, base=ModelVersion(1), cohort=NODES[:1]):
    return RoundPlan(number, base, {"w": np.float32([1, 2, 3])}, tuple(sorted(NODES)), cohort, TERMS)


def outcome(number=1):
    silent = {3: "gave no answer in time"}
    return RoundOutcome(number, ModelVersion(1), 2, NODES, NODES[:1], {}, {}, silent, 10, {"loss": 1.0}, 0.5, math.inf)


def aggregate(number=1, base=ModelVersion(1), change=(1, 0, 0)):
    return Aggregate({"w": np.float32(change)}, 1.0, base, "fog-a", number)


def run_round(journal, number=1):
    journal.open_round(plan(number))
    journal.charge(plan(number))
    journal.close_round(outcome(number), aggregate(number))


def test_an_open_round_is_read_back_as_it_was_opened(journal):
    journal.open_round(plan())

    found = journal.opened()

    np.testing.assert_array_equal(found.shared["w"], [1, 2, 3])
    assert replace(found, shared={}) == replace(plan(), shared={})
    assert found.expected_cohort == 1.0


def test_only_one_round_is_open_at_a_time_and_numbers_are_never_used_again(journal):
    journal.open_round(plan(1))
    with pytest.raises(StateError):
        journal.open_round(plan(2))
    journal.abandon_round(1, "why not")

    assert journal.opened() is None
    assert journal.next_round() == 2
    with pytest.raises(StateError):
        journal.open_round(plan(1))


def test_a_round_is_charged_once_however_often_that_is_asked(journal):
    journal.open_round(plan())
    for _ in range(3):
        journal.charge(plan())

    assert journal.histories() == dict.fromkeys(NODES, (Spending(1.1, 0.5, 1),))


def test_a_round_cannot_be_released_twice_and_a_failed_close_leaves_no_trace(journal):
    run_round(journal)
    with pytest.raises(StateError, match="must not be released twice"):
        journal.close_round(outcome(), aggregate(change=(9, 9, 9)))

    assert journal.outgoing().delta["w"][0] == 1
    assert journal.waiting() == 1


def test_the_outbox_gives_the_oldest_first_until_each_is_acknowledged(journal):
    for number in (1, 2):
        run_round(journal, number)
        journal.settle_locally(number)

    first = journal.outgoing()
    journal.acknowledge(1, ACCEPTED)
    second = journal.outgoing()
    journal.acknowledge(2, replace(ACCEPTED, verdict=AckVerdict.REFUSED, reason="stale"))

    assert (first.round, second.round, journal.outgoing()) == (1, 2, None)
    assert (first.fog, first.expected_cohort, first.base_version) == ("fog-a", 1.0, ModelVersion(1))
    assert [each["acknowledged"] for each in journal.history(9)] == ["accepted", "refused"]


def test_a_round_is_settled_here_once(journal):
    run_round(journal)
    assert journal.unsettled() == 1

    journal.settle_locally(1)
    journal.settle_locally(1)

    assert journal.unsettled() is None
    np.testing.assert_array_equal(journal.base().shared["w"], [1, 0, 0])


def test_a_newer_shared_adapter_replaces_what_was_done_here_and_an_older_one_nothing(journal):
    run_round(journal)
    journal.settle_locally(1)

    journal.adopt_shared(ModelVersion(1, 2), {"w": np.float32([5, 5, 5])})
    journal.adopt_shared(ModelVersion(1, 1), {"w": np.float32([7, 7, 7])})
    journal.adopt_shared(ModelVersion(2, 9), {"w": np.float32([8, 8, 8])})  # of a release not mirrored here

    assert journal.base().version == ModelVersion(1, 2)
    np.testing.assert_array_equal(journal.base().shared["w"], [5, 5, 5])


def test_a_newer_release_starts_at_zero_and_settles_what_waited(journal):
    run_round(journal)

    journal.adopt_release(Mirrored(2, "cd" * 32), {"w": (5,)})
    journal.adopt_release(Mirrored(1, "ab" * 32), SHAPES)

    assert journal.base().version == ModelVersion(2)
    np.testing.assert_array_equal(journal.base().shared["w"], np.zeros(5))
    assert journal.unsettled() is None
    assert journal.outgoing().round == 1  # it still goes to the cloud, which decides


def test_rounds_are_told_to_people_in_json_without_infinities(journal):
    run_round(journal)

    (told,) = journal.history(9)

    assert told["cohort"] == [str(node) for node in NODES]
    assert told["silent"] == {"3": "gave no answer in time"}
    assert told["epsilon"] is None
    assert (told["state"], told["settled"], told["base_version"]) == ("closed", None, "1.0")


def test_everything_is_there_after_the_file_was_closed_and_opened(tmp_path, journal, file):
    run_round(journal)
    journal.open_round(plan(2))
    file.close()

    again = SqliteJournal(JournalFile(tmp_path), "fog-a")

    assert again.opened().number == 2
    assert again.outgoing().round == 1
    assert again.enrolled() == tuple(sorted(NODES))
    again._file.close()


def test_a_state_of_another_fog_is_refused(journal, file):
    with pytest.raises(StateError, match="belongs to 'fog-a', not to 'fog-b'"):
        SqliteJournal(file, "fog-b")


def test_a_second_process_can_make_tokens_while_the_fog_writes(tmp_path, journal):
    other = JournalFile(tmp_path)
    tokens = []

    def make():
        tokens.extend(SqliteEnrolment(other).make_token() for _ in range(20))

    thread = threading.Thread(target=make)
    thread.start()
    for number in range(1, 21):
        run_round(journal, number)
        journal.settle_locally(number)
    thread.join()
    other.close()

    assert len(set(tokens)) == 20
    assert journal.next_round() == 21


def test_a_token_belongs_to_the_first_key_that_uses_it(file):
    enrolment = SqliteEnrolment(file)
    token = enrolment.make_token()

    assert enrolment.bind(token, b"key") is TokenUse.BOUND
    assert enrolment.bind(token, b"key") is TokenUse.BOUND
    assert enrolment.bind(token, b"other") is TokenUse.TAKEN
    assert enrolment.bind(token[:-1], b"key") is TokenUse.UNKNOWN


def test_a_device_that_comes_back_under_a_new_node_id_keeps_its_charges(journal, file):
    run_round(journal)
    journal.open_round(plan(2))

    SqliteEnrolment(file).admit(Device(77, "device-5", f"key {NODES[0]}".encode()))

    assert journal.histories() == {77: (Spending(1.1, 0.5, 1),), 3: (Spending(1.1, 0.5, 1),)}
    assert journal.opened() is None  # it would have charged the old id
    assert journal.history(9)[-1]["abandoned"] == "a device came back under a new node id"


def test_a_damaged_file_is_a_sentence(tmp_path):
    (tmp_path / NAME).write_bytes(b"this was never a database" * 100)

    with pytest.raises(StateError, match="is damaged; restore it from a backup"):
        JournalFile(tmp_path)


def test_a_file_of_another_version_is_a_sentence(tmp_path):
    database = sqlite3.connect(tmp_path / NAME)
    database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(StateError, match="another version"):
        JournalFile(tmp_path)
