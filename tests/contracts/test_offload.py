"""What every trainer keeps, the learner at hand and the fog's over real TLS; and what only a line can break."""

import contextlib
import dataclasses
import itertools
import shutil
import sqlite3
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.config import AgentSettings, Learning, Offload
from edge_agent.drivers import noised_samples, offload_folder
from edge_agent.drivers.fog_http import public_text
from edge_agent.drivers.forgetting import forget
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.drivers.noised_samples import NOTHING_LEFT
from edge_agent.drivers.offload_link import MAX_UNTOLD, OffloadLink
from edge_agent.drivers.onnx_engine import load_release
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_store import Database
from edge_agent.ports import Job
from edge_agent.selection import Everything, forgotten_in_words
from edge_agent.values import Action, Decision, Fitted, NotFitted, Reason
from learning_core.federation.accountant import Spending, epsilon
from learning_core.federation.local_noise import cost
from learning_core.params import shapes_of, zeros
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos import offload_pb2 as pb
from protos.certificates import CertificateFiles, ensure_certificate
from protos.codec import encode_params
from protos.learner_records import decode_samples
from protos.offload_jobs import JobState, Kind, Offer, ResultHeader, Standing, blob_of, pieces_of, statement
from protos.offload_messages import (
    MAX_ADAPTER_BYTES,
    encode_offer,
    encode_query,
    encode_result,
    encode_result_data,
    encode_state,
)
from protos.offload_pb2_grpc import OffloadServicer, OffloadStub
from protos.release import verify_release
from simulations.offload_service import StandInService, start_stand_in
from simulations.offload_stand_in import StandInJobs

sys.path.insert(0, str(Path(__file__).parent.parent / "edge_agent"))
from stand_in_release import PUBLIC_KEY, make_flow_release, manifest_digest

HERE = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
AWAY = Decision(Action.OFFLOAD, Reason.HEAT, "the chip has 80.0 °C; the fog may learn in its place")
PAUSED = Decision(Action.SERVE_ONLY, Reason.PAUSED, "training is paused by the user; resume it to go on")
LEARNING = Learning(steps=12, slice_steps=3, batch=8, patience_s=0.2, scheduling="nice")
RAW = Offload(enabled=True, allow_raw_offload=True, poll_s=0.05, deadline_s=10.0)
NOISED = Offload(enabled=True, noise_multiplier=0.1, max_samples=16, poll_s=0.05, deadline_s=10.0)
KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="module")
def flow_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow") / "1"
    make_flow_release(folder)
    return folder


@pytest.fixture(scope="module")
def release(flow_folder):
    return load_release(flow_folder, verify_release(flow_folder, PUBLIC_KEY), manifest_digest(flow_folder))


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    files = CertificateFiles(*(folder / name for name in ("fog.crt", "fog.ca.key", "leaf.crt", "leaf.key")))
    ensure_certificate(files, "fog-a", ["127.0.0.1", "localhost"], time.time())
    return files


@pytest.fixture
def job(release, request):
    rng = np.random.default_rng(1)
    samples = Batch(rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32), rng.integers(5, 10, 20))
    return Job(request.node.name, release, zeros(release.manifest.adapter_shapes), ModelVersion(1), samples, 100.0)


class Fog:
    """The stand-in on a port that stays its own over restarts."""

    def __init__(self, folder, release, tls):
        self.folder, self.release, self.tls = folder, release, tls
        self.port, self.server, self.jobs = 0, None, None

    def start(self, service=None, devices=frozenset({public_text(KEY)})):
        at = {(self.release.version, self.release.digest): Path(self.release.folder)}
        self.jobs = StandInJobs(self.folder, lambda version, digest: at.get((version, digest)), slice_steps=3)
        service = service or StandInService(self.jobs, devices.__contains__)
        files = self.tls.private_key.read_bytes(), self.tls.certificate.read_bytes()
        self.server, self.port = start_stand_in(service, *files, self.port)
        return self

    def kill(self):
        self.server.stop(0).wait()
        self.jobs.close()

    def begin_and_kill(self, fit):
        """Kill it as soon as it has learned a little of what `fit` asks for; what `fit` gives once it is back."""
        found = []
        thread = threading.Thread(target=lambda: found.append(fit()))
        thread.start()
        while self.jobs.steps_taken == 0:
            time.sleep(0.005)
        self.kill()
        return thread, found


@pytest.fixture
def fog(tmp_path, release, tls):
    fog = Fog(tmp_path / "fog", release, tls)
    yield fog.start()
    fog.kill()


class Device:
    """A link and what it stands on; `restart` is a new process on the same state."""

    def __init__(self, state, fog):
        self.state, self.fog, self.link, self.database = state, fog, None, None
        self.settings = RAW
        self.key = KEY
        self.max_epsilon = 5000.0

    def start(self, **changes):
        self.close()
        self.settings = self.settings.model_copy(update=changes)
        self.state.mkdir(exist_ok=True)
        self.database = Database(self.state / "agent.db")
        self.journal = SqliteJournal(self.database)
        address = f"127.0.0.1:{self.fog.port}"
        fog = {"address": address, "ca": str(self.fog.tls.authority), "release_key": PUBLIC_KEY.hex()}
        settings = AgentSettings(
            name="device-1",
            state=self.state,
            fog=fog,
            learning=LEARNING,
            offload=self.settings.model_copy(update={"address": address}),
            privacy={"max_epsilon": self.max_epsilon},
        )
        self.link = OffloadLink(settings, self.key, self.journal)
        return self.link

    @staticmethod
    def peek(state):
        """What the device has been charged for, as its disk says now."""
        with contextlib.closing(sqlite3.connect(state / "agent.db")) as db:
            return [Spending(*row) for row in db.execute("SELECT noise_multiplier, sample_rate, rounds FROM spendings")]

    def close(self):
        if self.link is not None:
            self.link.close()
            self.database.close()
            self.link = None


@pytest.fixture
def device(tmp_path, fog):
    device = Device(tmp_path / "state", fog)
    yield device
    device.close()


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """One child for all tests: it takes seconds to load its libraries."""
    learner = LearnerProcess(tmp_path_factory.mktemp("here") / "learning", LEARNING)
    yield learner
    learner.close()


@pytest.fixture(params=["the learner at hand", "the fog"])
def trainer(request, learner):
    """A trainer, and the decision under which it works."""
    return (request.getfixturevalue("device").start(), AWAY) if request.param == "the fog" else (learner, HERE)


def same(left, right):
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_a_fit_gives_an_adapter_of_the_releases_exact_shapes_that_has_moved(trainer, job, release):
    fitted = trainer[0].fit(job, lambda: trainer[1])
    assert isinstance(fitted, Fitted)
    assert shapes_of(fitted.adapter) == dict(release.manifest.adapter_shapes)
    assert not same(fitted.adapter, job.shared)
    assert (fitted.steps, np.isfinite(fitted.loss)) == (12, True)


def test_a_decision_stops_it_within_a_second_and_the_same_job_goes_on_to_the_same_end(trainer, job, learner):
    asked = []

    def decision():
        asked.append(time.monotonic())
        return trainer[1] if len(asked) < 4 else PAUSED

    stopped = trainer[0].fit(job, decision)
    ended = time.monotonic()
    assert isinstance(stopped, NotFitted)
    assert "paused by the user" in stopped.reason
    assert ended - asked[3] < 1.0 + LEARNING.patience_s
    resumed = trainer[0].fit(job, lambda: trainer[1])
    assert same(resumed.adapter, learner.fit(job, lambda: HERE).adapter)  # raw samples: the fog learns what we would


def test_a_job_that_is_done_is_not_learned_again(trainer, job, fog):
    first = trainer[0].fit(job, lambda: trainer[1])
    steps = fog.jobs.steps_taken
    again = trainer[0].fit(job, lambda: trainer[1])
    assert same(first.adapter, again.adapter)
    assert fog.jobs.steps_taken == steps <= 12


def test_a_job_that_takes_longer_than_its_round_is_given_up(trainer, job):
    outcome = trainer[0].fit(dataclasses.replace(job, deadline_s=0.01), lambda: trainer[1])
    assert isinstance(outcome, NotFitted)
    assert "deadline" in outcome.reason


def test_a_job_that_cannot_be_done_says_why(trainer, job):
    shared = {name: value for name, value in job.shared.items() if name != "label_rows"}
    outcome = trainer[0].fit(dataclasses.replace(job, shared=shared), lambda: trainer[1])
    assert isinstance(outcome, NotFitted)
    assert "label_rows" in outcome.reason


def test_while_samples_are_forgotten_nobody_learns_and_nobody_waits(trainer, job):
    with trainer[0].halted():
        outcome = trainer[0].fit(job, lambda: trainer[1])
    assert outcome == NotFitted("samples are being forgotten")
    assert isinstance(trainer[0].fit(job, lambda: trainer[1]), Fitted)


def test_noised_samples_are_paid_for_before_they_leave_and_never_again(device, job, fog):
    device.settings = NOISED
    link = device.start()
    fitted = link.fit(job, lambda: AWAY)
    assert shapes_of(fitted.adapter) == dict(job.release.manifest.adapter_shapes)
    assert device.journal.spendings() == [Spending(0.1 / 4, 1.0, 1)]  # 16 samples: a sixteenth of the variance
    link = device.start()
    later = dataclasses.replace(job, name="fog-a-2-1.0")
    assert isinstance(link.fit(later, lambda: AWAY), Fitted)
    assert device.journal.spendings() == [Spending(0.1 / 4, 1.0, 1)]


def test_what_leaves_is_noised_unless_the_owner_allowed_more(device, job, fog):
    device.settings = NOISED
    seen = []
    taken = fog.jobs.submit
    fog.jobs.submit = lambda who, header, contents: seen.append(header.kind) or taken(who, header, contents)
    device.start().fit(job, lambda: AWAY)
    device.start(allow_raw_offload=True).fit(job, lambda: AWAY)
    assert seen == [Kind.LATENTS, Kind.RAW]
    assert device.database.counts()["offloaded_raw"] == 1


def test_a_device_without_budget_waits_and_says_so(device, job, release, fog):
    device.settings, device.max_epsilon = NOISED, 10.0
    link = device.start()
    link.look(release)
    assert (link.ready, link.trouble) == (False, NOTHING_LEFT)
    assert link.fit(job, lambda: AWAY) == NotFitted(NOTHING_LEFT)
    assert device.journal.spendings() == []
    assert fog.jobs.steps_taken == 0


def test_what_the_round_itself_will_cost_is_left_in_the_budget(device, job):
    device.settings = NOISED
    ahead = (Spending(0.05, 1.0, 1),)
    device.start().fit(dataclasses.replace(job, ahead=ahead), lambda: AWAY)
    spent = device.journal.spendings()
    assert spent
    assert epsilon([*spent, *ahead], 1e-5) <= device.max_epsilon


def test_noise_that_leaves_nothing_to_learn_is_not_even_sent(device, job, release, fog):
    device.settings = NOISED
    link = device.start(noise_multiplier=3.0)
    link.look(release)
    assert not link.ready
    assert "leaves too little for flow_image" in link.trouble
    assert link.fit(job, lambda: AWAY) == NotFitted(link.trouble)


def test_a_fog_that_is_away_costs_nothing_and_the_job_is_done_when_it_is_back(device, job, release, fog):
    link = device.start()
    link.look(release)
    assert link.ready
    fog.kill()
    link.look(release)
    assert not link.ready
    outcome = link.fit(dataclasses.replace(job, deadline_s=0.5), lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert "cannot be reached" in outcome.reason
    fog.start()
    assert isinstance(link.fit(job, lambda: AWAY), Fitted)


@pytest.mark.parametrize("remembers", [True, False])
def test_a_fog_that_is_killed_in_the_middle_goes_on_or_is_sent_the_same_again(device, job, fog, tmp_path, remembers):
    device.settings = NOISED
    link = device.start()
    slow = dataclasses.replace(job, deadline_s=50.0)
    thread, found = fog.begin_and_kill(lambda: link.fit(slow, lambda: AWAY))
    if not remembers:
        shutil.rmtree(fog.folder)
    fog.start()
    thread.join()
    assert isinstance(found[0], Fitted)
    assert device.journal.spendings() == [Spending(0.1 / 4, 1.0, 1)]
    whole = Device(tmp_path / "whole", fog)
    whole.settings = NOISED
    shutil.copytree(device.state / "offload", tmp_path / "whole" / "offload")  # the same noise
    whole.start()
    whole.journal.pay(*device.journal.paid(), Spending(0.1 / 4, 1.0, 1))
    for result in (tmp_path / "whole" / "offload").glob("*/checkpoint.safetensors"):
        result.unlink()
    assert same(whole.link.fit(slow, lambda: AWAY).adapter, found[0].adapter)
    whole.close()


class Killed(BaseException):
    """The device's process ends here."""


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("at", range(6))
def test_killed_at_any_write_a_device_has_paid_for_all_it_ever_sent(device, job, fog, monkeypatch, at, acted):
    """The writes: the noise, its charge, samples, start and header of the job, its result; before or after each."""
    writes, sent = itertools.count(), []
    taken = fog.jobs.submit

    def submit(who, header, contents):
        samples, start = contents()
        paid = epsilon(Device.peek(device.state), 1e-5)
        sent.extend(row.tobytes() for row in decode_samples(samples).features)
        assert paid >= epsilon([cost(len(set(sent)), 0.1)], 1e-5) * (1 - 1e-9)
        return taken(who, header, lambda: [samples, start])

    def killable(work):
        def write(*arguments):
            if (number := next(writes)) == at and not acted:
                raise Killed
            done = work(*arguments)
            if number == at:
                raise Killed
            return done

        return write

    fog.jobs.submit = submit
    device.settings = NOISED
    link = device.start()
    with monkeypatch.context() as patches:
        patches.setattr(offload_folder, "write_atomically", killable(offload_folder.write_atomically))
        patches.setattr(noised_samples, "write_atomically", killable(noised_samples.write_atomically))
        patches.setattr(device.journal, "pay", killable(device.journal.pay))
        with pytest.raises(Killed):
            link.fit(job, lambda: AWAY)
    assert isinstance(device.start().fit(job, lambda: AWAY), Fitted)
    assert epsilon(device.journal.spendings(), 1e-5) <= epsilon([cost(16, 0.1)], 1e-5) * (1 + 1e-9)


def test_a_fog_that_learns_from_raw_samples_only_gets_none(device, job, fog):
    class RawOnly(StandInService):
        def Offer(self, request, context):  # noqa: N802
            return encode_offer(Offer(frozenset({Kind.RAW})))

    fog.kill()
    fog.start(RawOnly(fog.jobs, lambda _: True))
    device.settings = NOISED
    outcome = device.start().fit(job, lambda: AWAY)
    assert outcome == NotFitted("the fog learns from raw samples only, and those may not leave this device")


def test_a_release_the_fog_does_not_have_is_not_learned(device, job, release):
    other = dataclasses.replace(release, digest="0" * 64)
    outcome = device.start().fit(dataclasses.replace(job, release=other), lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert "release 1 is not here" in outcome.reason


def test_a_device_that_is_not_enrolled_is_not_let_in(device, job, fog):
    device.key = ec.generate_private_key(ec.SECP384R1())
    outcome = device.start().fit(job, lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert "enrol the device with a token" in outcome.reason
    assert fog.jobs.steps_taken == 0


def test_a_fog_with_another_authority_is_as_good_as_away(device, job, tls, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    files = CertificateFiles(*(folder / name for name in ("a.crt", "a.key", "b.crt", "b.key")))
    ensure_certificate(files, "somebody", ["127.0.0.1"], time.time())
    device.fog = SimpleNamespace(port=device.fog.port, tls=files)
    outcome = device.start().fit(dataclasses.replace(job, deadline_s=0.5), lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert "cannot be reached" in outcome.reason


class Liar(OffloadServicer):
    """Says every job is done, and gives for its result what it was told to."""

    def __init__(self, pieces, state=None, offer=None):
        self.pieces, self.state, self.offer, self.dropped = pieces, state, offer, []

    def Offer(self, request, context):  # noqa: N802
        return self.offer or encode_offer(Offer(frozenset(Kind)))

    def Poll(self, request, context):  # noqa: N802
        return self.state or encode_state(JobState(Standing.DONE))

    def Drop(self, request, context):  # noqa: N802
        self.dropped.append(request.job)
        return encode_state(JobState(Standing.UNKNOWN))

    def Fetch(self, request, context):  # noqa: N802
        yield from self.pieces(request.job)


def result(data, job, **changes):
    """The pieces of a result, of which some fields are changed."""
    header = dataclasses.replace(ResultHeader(job, 12, 0.5, blob_of(data)), **changes)
    return [encode_result(header), *(encode_result_data(piece) for piece in pieces_of(data))]


LIES = {
    "the result of another job": (lambda good, job: result(good, b"\1" * 32), "another job"),
    "an adapter of other shapes": (
        lambda good, job: result(encode_params({"label_rows": np.zeros((5, 64), np.float32)}), job),
        "do not fit",
    ),
    "numbers that are none": (
        lambda good, job: result(good.replace(b"\0\0\0\0" * 4, b"\0\0\xc0\x7f" * 4), job),
        "not finite",
    ),
    "no tensors": (lambda good, job: result(b"{}" * 100, job), "safetensors"),
    "fewer bytes than announced": (lambda good, job: result(good, job)[:1], "ended after"),
    "more bytes than announced": (
        lambda good, job: [*result(good, job), encode_result_data(b"more")],
        "more was sent",
    ),
    "other bytes than announced": (
        lambda good, job: [result(good, job)[0], *result(bytes(len(good)), job)[1:]],
        "not what its header announced",
    ),
    "nothing": (lambda good, job: [], "no result"),
    "no header": (lambda good, job: result(good, job)[1:], "begins with its header"),
    "two headers": (lambda good, job: [result(good, job)[0]] * 2, "after the header"),
    "a loss that is none": (lambda good, job: result(good, job, loss=float("nan")), "no result"),
    "more bytes than an adapter may have": (
        lambda good, job: result(good, job, adapter=dataclasses.replace(blob_of(good), size=MAX_ADAPTER_BYTES + 1)),
        "are announced",
    ),
    "a message that is too large": (
        lambda good, job: [result(good, job)[0], pb.ResultPiece(data=bytes(3 << 20))],
        "larger than it may be",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_malformed_result_is_refused_with_a_sentence_and_the_fog_told_to_forget_it(device, job, fog, lie):
    pieces, reason = LIES[lie]
    good = encode_params(job.shared)
    liar = Liar(lambda name: pieces(good, name))
    fog.kill()
    fog.start(liar)
    outcome = device.start().fit(job, lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert reason in outcome.reason
    assert not list((device.state / "offload").glob("*/checkpoint.safetensors"))


@pytest.mark.parametrize(
    "answers",
    [
        {"state": pb.JobState(standing=99)},
        {"state": pb.JobState(standing=3, reason="x" * 1000)},
        {"state": pb.JobState.FromString(b"\x08\x03\xf8\x07\x01")},
        {"offer": pb.OfferReply(kinds=[7])},
        {"offer": pb.OfferReply(kinds=[1] * 50)},
    ],
)
def test_a_malformed_answer_is_refused_with_a_sentence(device, job, fog, answers):
    fog.kill()
    fog.start(Liar(lambda _: [], **answers))
    outcome = device.start().fit(job, lambda: AWAY)
    assert isinstance(outcome, NotFitted)
    assert outcome.reason.startswith("the fog did not learn for this device: ")


def test_while_a_job_waits_for_the_fog_it_is_not_given_up_for_one_unanswered_question(device, job, release, fog):
    link = device.start()
    link.look(release)
    fog.kill()
    outcome = _in_a_thread(lambda: link.fit(job, lambda: AWAY if link.ready else PAUSED))
    while not link._turn.locked():
        time.sleep(0.005)
    link.look(release)
    assert link.ready
    fog.start()
    assert isinstance(outcome(), Fitted)


def test_a_job_the_fog_refuses_is_not_sent_again(device, job, fog):
    fog.kill()
    fog.start(Liar(lambda _: [], state=encode_state(JobState(Standing.REFUSED, reason="it is too hot here too"))))
    assert device.start().fit(job, lambda: AWAY) == NotFitted("the fog refused the job: it is too hot here too")


@pytest.fixture
def raw_stub(fog, device):
    """The service without our client around it, and a caller that proves the key."""
    credentials = grpc.ssl_channel_credentials(fog.tls.authority.read_bytes())
    with contextlib.closing(grpc.secure_channel(f"127.0.0.1:{fog.port}", credentials)) as channel:
        yield OffloadStub(channel), device.start()._calls._proof


def code(call):
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code()


def test_the_service_refuses_what_is_compressed_undated_unproven_or_too_large(raw_stub, job):
    stub, proof = raw_stub
    query, name = encode_query(b"\2" * 32), b"\2" * 32
    assert stub.Poll(query, timeout=5, metadata=proof("Poll", name)).standing == pb.JobState.UNKNOWN
    squeezed = code(lambda: stub.Poll(query, 5, proof("Poll", name), compression=grpc.Compression.Gzip))
    assert squeezed is grpc.StatusCode.UNIMPLEMENTED
    assert code(lambda: stub.Poll(query, metadata=proof("Poll", name))) is grpc.StatusCode.INVALID_ARGUMENT
    assert code(lambda: stub.Poll(query, timeout=5)) is grpc.StatusCode.UNAUTHENTICATED
    assert code(lambda: stub.Poll(query, timeout=5, metadata=proof("Drop", name))) is grpc.StatusCode.UNAUTHENTICATED
    large = iter([pb.JobPiece(data=bytes(2 << 20))])
    assert code(lambda: stub.Submit(large, timeout=5)) in {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }


def test_a_proof_is_of_one_call_about_one_job():
    statements = {statement(method, name) for method in ("Poll", "Drop") for name in (b"\1" * 32, b"\2" * 32)}
    assert len(statements) == 4


def test_a_fog_is_told_to_forget_what_a_person_wants_forgotten(device, job, fog):
    link = device.start()
    fog.jobs._slice_steps = 1
    outcome = _in_a_thread(lambda: link.fit(job, lambda: AWAY))
    while fog.jobs.steps_taken == 0:
        time.sleep(0.005)
    with link.halted():
        assert not list(fog.folder.glob("*/*/samples.safetensors"))
    outcome()


def kept_by(fog):
    """Which jobs the fog has samples of."""
    return {path.parent.name for path in fog.folder.glob("*/*/samples.safetensors")}


def begun_and_given_up(link, job):
    """A job that was sent and did not end before its round did."""
    assert isinstance(link.fit(dataclasses.replace(job, deadline_s=1.0), lambda: AWAY), NotFitted)


def test_a_job_that_is_given_up_is_dropped_at_the_next_look_and_one_that_is_at_work_never(device, job, release, fog):
    link = device.start()
    fog.jobs._begin = lambda place, header: JobState(Standing.WORKING)  # for ever
    begun_and_given_up(link, job)
    assert len(kept_by(fog)) == len(device.journal.far_jobs()) == 1
    outcome = _in_a_thread(lambda: link.fit(dataclasses.replace(job, name="next", deadline_s=2.0), lambda: AWAY))
    while len(kept_by(fog)) < 2:
        time.sleep(0.005)
    link.look(release)
    assert len(kept_by(fog)) == 2  # nothing is asked for while a job is at work
    outcome()
    link.look(release)
    assert kept_by(fog) == set()
    assert device.journal.far_jobs() == []


def test_what_a_fog_that_is_away_has_of_earlier_jobs_is_told_to_the_person_and_dropped_when_it_is_back(
    device, job, release, fog
):
    link = device.start()
    working = fog.jobs._begin = lambda place, header: JobState(Standing.WORKING)
    begun_and_given_up(link, job)
    begun_and_given_up(link, dataclasses.replace(job, name="next"))
    fog.kill()
    with link.halted():
        told = forget(Everything(), device.state, device.state / "spool", device.database)
    assert told.untold == 2
    assert "may still have samples of 2 jobs" in forgotten_in_words(dataclasses.asdict(told))
    fog.start()
    fog.jobs._begin = working
    assert len(kept_by(fog)) == 2
    device.start().look(release)
    assert kept_by(fog) == set()
    assert forget(Everything(), device.state, device.state / "spool", device.database).untold == 0


def test_a_job_that_a_killed_device_left_goes_on_and_is_not_dropped_before(device, job, release, fog):
    link = device.start()
    fog.jobs._slice_steps = 1
    outcome = _in_a_thread(lambda: link.fit(job, lambda: AWAY))
    while fog.jobs.steps_taken == 0:
        time.sleep(0.005)
    device.start().look(release)
    assert len(kept_by(fog)) == 1
    assert outcome() == NotFitted("the agent is stopping")
    assert isinstance(device.link.fit(job, lambda: AWAY), Fitted)
    assert (kept_by(fog), device.journal.far_jobs()) == (set(), [])


def test_a_fog_that_never_forgets_gets_no_further_job(device, job, fog):
    link = device.start()
    for number in range(MAX_UNTOLD):
        device.journal.sent_away(number.to_bytes(32, "big"))
    outcome = link.fit(job, lambda: AWAY)
    assert "has not dropped" in outcome.reason
    assert kept_by(fog) == set()


def _in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def outcome():
        thread.join()
        return found[0]

    return outcome
