import threading
from dataclasses import replace

import numpy as np
import pytest

from edge_agent.config import Privacy
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.guard import Guard, Hold
from edge_agent.offload import LEARNING
from edge_agent.participation import Participant
from edge_agent.serving import Serving, served_with
from edge_agent.values import (
    Action,
    Arrival,
    Decision,
    Fitted,
    Ingested,
    NewSample,
    NotFitted,
    Reason,
)
from learning_core.errors import DewfallError
from learning_core.federation.accountant import Spending, epsilon
from learning_core.memory.keep_budget import Threshold
from learning_core.params import norm, scale, subtract
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.flower_records import Declined, StatusQuery, Trained, TrainRequest, decode_train_reply, encode_train_reply

GO = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
HOT = Decision(Action.WAIT, Reason.HEAT, "the chip has 80.0 °C")


class StandInTrainer:
    """Learns in no time what it was told it would."""

    def __init__(self, learned):
        self.learned, self.jobs = learned, []

    def fit(self, job, decision):
        self.jobs.append(job)
        if (now := decision()).action not in LEARNING:
            return NotFitted(now.sentence)
        return self.learned if isinstance(self.learned, NotFitted) else Fitted(self.learned, 60, 0.5, 1.5)


class Device:
    """A participant and all that stands around it; `start` again is a restart on the same database."""

    def __init__(self, folder, release, learned):
        self.folder, self.release = folder, release
        self.trainer = StandInTrainer(learned)
        self.decision, self.news, self.announced, self.adopted = GO, None, [], []
        self.refused, self.guard = [], Guard()
        self.privacy = Privacy(max_epsilon=50.0)
        self.database = None
        self.start()

    def start(self):
        if self.database is not None:
            self.database.close()
        self.database = Database(self.folder / "agent.db")
        self.journal, self.memory = SqliteJournal(self.database), SqliteMemory(self.database)
        self.serving = Serving()
        if self.release is not None:
            self.serving.serve(served_with(self.release, None))
        self.participant = Participant(
            self.serving,
            self.memory,
            self.journal,
            self.trainer,
            lambda: self.decision,
            self.privacy,
            lambda: {"seen": 3.0},
            self,
            self.guard,
            0.05,
        )

    def adopt(self, release, adapter):
        self.adopted.append(adapter)

    def refuse(self, adapter, reason):
        self.refused.append((adapter, reason))

    def announce(self, version, digest):
        self.announced.append((version, digest))
        return self.news

    def keep(self, count):
        batch = Batch(np.zeros((count, 1, 4, 4), np.float32), np.full(count, 7))
        new = [NewSample(batch.features[i], np.zeros(16, np.float32), 7, 0, 0.5) for i in range(count)]
        self.memory.store(
            Ingested(Arrival("a", "d", batch, np.zeros(count, int), np.zeros(count, int)), new, {}, Threshold()),
            1 << 20,
        )


@pytest.fixture
def device(tmp_path, release, stand_in):
    device = Device(tmp_path, release, stand_in.good_adapter())
    device.keep(12)
    yield device
    device.database.close()


@pytest.fixture
def request_for(stand_in):
    def request_for(round_=1, fog="fog-a", clip_norm=2.0, noise=1.0, release=1):
        shared = scale(stand_in.good_adapter(), 0.5)
        return TrainRequest(fog, round_, ModelVersion(release, 3), shared, clip_norm, noise, 0.5, 10.0)

    return request_for


def test_the_answer_is_what_was_learned_clipped_to_the_norm_asked_for(device, request_for, stand_in):
    reply = device.participant.train(request_for(clip_norm=2.0))
    assert isinstance(reply, Trained)
    assert norm(reply.update.update.delta) == pytest.approx(2.0, rel=1e-5)
    learned = subtract(stand_in.good_adapter(), request_for().shared)
    direction = reply.update.update.delta["label_rows"] / 2.0
    np.testing.assert_allclose(direction, learned["label_rows"] / norm(learned), atol=1e-5)
    assert (reply.update.update.num_examples, reply.update.update.base_version) == (12, ModelVersion(1, 3))


def test_a_reply_fits_into_its_message(device, request_for, release):
    shapes = release.manifest.adapter_shapes
    reply = device.participant.train(request_for())
    assert decode_train_reply(encode_train_reply(reply), shapes).round == 1
    device.decision = Decision(Action.WAIT, Reason.HEAT, "long \n" * 100)
    reply = device.participant.train(request_for(2))
    assert decode_train_reply(encode_train_reply(reply), shapes).reason.startswith("heat: long")


def test_an_accepted_adapter_is_served_whole_and_the_samples_count_as_trained(device, request_for, stand_in):
    device.participant.train(request_for())
    assert (device.adopted[0]["label_rows"] == stand_in.good_adapter()["label_rows"]).all()
    assert device.database.counts()["trained"] == 12


@pytest.mark.parametrize("restart", [False, True])
def test_the_same_round_asked_twice_is_answered_the_same_trained_once_and_charged_once(device, request_for, restart):
    first = device.participant.train(request_for())
    if restart:
        device.start()
    device.decision = HOT  # an answer that is there already needs no training
    second = device.participant.train(request_for())
    assert isinstance(second, Trained)
    assert (second.update.update.delta["label_rows"] == first.update.update.delta["label_rows"]).all()
    assert len(device.trainer.jobs) == 1
    assert device.journal.spendings() == [Spending(1.0, 1.0, 1)]


def test_rounds_of_two_fogs_are_two_rounds(device, request_for):
    device.participant.train(request_for(fog="fog-a"))
    device.participant.train(request_for(fog="fog-b"))
    assert device.journal.spendings() == [Spending(1.0, 1.0, 2)]


def test_a_round_answered_long_ago_is_declined_and_not_charged_again(device, request_for):
    for round_ in range(1, 6):
        device.participant.train(request_for(round_))
    reply = device.participant.train(request_for(1))
    assert isinstance(reply, Declined)
    assert reply.reason.startswith("answered")
    assert device.journal.spendings() == [Spending(1.0, 1.0, 5)]


def test_the_odometer_refuses_whatever_the_fog_says_when_the_next_round_would_be_too_much(device, request_for):
    replies = [device.participant.train(request_for(round_)) for round_ in range(1, 60)]
    trained = sum(isinstance(reply, Trained) for reply in replies)
    assert 1 < trained < 59
    assert isinstance(replies[-1], Declined)
    assert replies[-1].reason.startswith("budget")
    assert epsilon([Spending(1.0, 1.0, trained)], 1e-5) <= 50 < epsilon([Spending(1.0, 1.0, trained + 1)], 1e-5)
    assert not device.participant.budget_left()
    device.start()
    assert not device.participant.budget_left()


def test_a_round_without_noise_costs_everything(device, request_for):
    reply = device.participant.train(request_for(noise=0.0))
    assert isinstance(reply, Declined)
    assert device.journal.spendings() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda device: setattr(device, "decision", HOT), "heat: the chip has 80.0 °C"),
        (lambda device: device.serving.serve(None), "release: the round is about release 1, this device serves none"),
        (lambda device: setattr(device.trainer, "learned", NotFitted("training was stopped (heat)")), "stopped: "),
    ],
)
def test_who_cannot_take_part_declines_with_the_reason_and_is_not_charged(device, request_for, change, reason):
    change(device)
    reply = device.participant.train(request_for())
    assert isinstance(reply, Declined)
    assert reply.reason.startswith(reason)
    assert device.journal.spendings() == []
    assert device.database.counts()[f"declined.{reply.reason.partition(':')[0]}"] == 1


def test_a_round_about_another_release_is_declined_without_training(device, request_for):
    assert isinstance(device.participant.train(request_for(release=2)), Declined)
    assert device.trainer.jobs == []


def test_a_candidate_that_damages_old_conditions_is_rolled_back_not_sent_and_not_charged(
    device, request_for, stand_in, caplog
):
    caplog.set_level("INFO")
    device.trainer.learned = stand_in.bad_adapter()
    reply = device.participant.train(request_for())
    assert isinstance(reply, Declined)
    assert reply.reason == "golden"  # figures of what it learned from are for the log here
    assert "fidelity fell" in caplog.text
    assert device.adopted == []
    assert device.journal.spendings() == []
    assert device.database.counts()["rolled_back"] == 1


def test_a_second_request_while_one_is_trained_waits_for_it_or_is_told_so(device, request_for):
    inside, leave = threading.Event(), threading.Event()
    learn = device.trainer.fit

    def slowly(job, decision):
        inside.set()
        leave.wait(10)
        return learn(job, decision)

    device.trainer.fit = slowly
    replies = {}

    def ask(name, request):
        replies[name] = device.participant.train(request)

    threads = [threading.Thread(target=ask, args=("first", request_for(1)))]
    threads[0].start()
    assert inside.wait(10)
    status = device.participant.status(StatusQuery("fog-a", 1, ""))
    assert (status.ready, status.reason) == (False, "busy: training for round 1 of fog-a")
    threads.append(threading.Thread(target=ask, args=("again", request_for(1))))
    threads[1].start()
    ask("other", request_for(2))
    assert replies["other"].reason.startswith("busy")
    leave.set()
    for thread in threads:
        thread.join()
    assert len(device.trainer.jobs) == 1
    assert (
        replies["again"].update.update.delta["label_rows"] == replies["first"].update.update.delta["label_rows"]
    ).all()


def test_a_status_says_what_the_device_is_and_passes_on_which_release_is_new(device):
    status = device.participant.status(StatusQuery("fog-a", 2, "0" * 64))
    assert (status.ready, status.release, status.samples_kept, status.metrics) == (True, 1, 12, {"seen": 3.0})
    assert device.announced == [(2, "0" * 64)]
    device.news = "release 2 is being fetched"
    status = device.participant.status(StatusQuery("fog-a", 2, "0" * 64))
    assert (status.ready, status.reason) == (False, "release: release 2 is being fetched")
    device.decision = HOT
    assert device.participant.status(StatusQuery("fog-a", 0, "")).reason.startswith("heat: ")


def test_a_device_without_a_release_has_no_adapter_to_train(tmp_path, stand_in):
    device = Device(tmp_path, None, stand_in.good_adapter())
    assert device.participant.adapter_shapes() == {}
    assert device.participant.status(StatusQuery("fog-a", 0, "")).release == 0
    device.database.close()


def test_while_it_is_kept_idle_a_round_is_declined_and_nobody_else_gets_hold_of_it(device, request_for):
    with device.participant.idle(0.01):
        assert device.participant.train(request_for()).reason.startswith("busy")
        with pytest.raises(DewfallError, match="ask again"), device.participant.idle(0.01):
            pytest.fail("it was not idle for the second one")
    assert isinstance(device.participant.train(request_for()), Trained)


def test_a_candidate_that_was_rolled_back_is_banned(device, request_for, stand_in):
    device.trainer.learned = stand_in.bad_adapter()
    device.participant.train(request_for())
    ((refused, reason),) = device.refused
    assert (refused["tm.0.lora_B"] == stand_in.bad_adapter()["tm.0.lora_B"]).all()
    assert reason.startswith("fidelity fell")


def test_a_candidate_that_is_held_is_neither_served_sent_charged_nor_banned(device, request_for, stand_in):
    class Doubtful(Guard):
        def check(self, release, inputs, learned_from=None):
            found = super().check(release, inputs, learned_from)
            return Hold(found.figures, ("KID went 0.150 from the base, healthy updates stay below 0.100",))

    device.guard = Doubtful()
    device.start()
    reply = device.participant.train(request_for())
    assert reply.reason == "held"
    assert (device.adopted, device.refused, device.journal.spendings()) == ([], [], [])
    device.guard = Guard()
    device.start()
    assert isinstance(device.participant.train(request_for()), Trained)


def test_what_a_device_learned_from_is_shown_to_the_guard(device, request_for):
    shown = []

    class Looking(Guard):
        def check(self, release, inputs, learned_from=None):
            shown.append(learned_from)
            return super().check(release, inputs, learned_from)

    device.guard = Looking()
    device.start()
    device.participant.train(request_for())
    assert len(shown[0]) == 12


def test_a_release_that_was_loaded_anew_while_a_device_trained_is_the_same(device, request_for):
    fit = device.trainer.fit

    def meanwhile(job, decision):
        device.serving.serve(served_with(replace(device.release), None))
        return fit(job, decision)

    device.trainer.fit = meanwhile
    assert isinstance(device.participant.train(request_for()), Trained)
