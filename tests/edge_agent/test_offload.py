import itertools
from contextlib import closing, contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from edge_agent.app import Agent
from edge_agent.budget import Cost
from edge_agent.config import AgentSettings, Limits, Offload, Privacy
from edge_agent.drivers.forgetting import forget
from edge_agent.drivers.noised_samples import NoisedSamples
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.offload import Trainers, affordable, kind_for
from edge_agent.participation import Participant
from edge_agent.selection import Everything
from edge_agent.serving import Serving
from edge_agent.values import Action, Decision, NotFitted, Reason
from learning_core.errors import StateError
from learning_core.federation.accountant import Spending, epsilon
from learning_core.federation.local_noise import cost
from learning_core.samples import Batch
from protos.flower_records import StatusQuery
from protos.offload_jobs import Kind, Offer

HERE = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
AWAY = Decision(Action.OFFLOAD, Reason.HEAT, "the chip has 80.0 °C; the fog may learn in its place")
ANY, NONE = Offer(frozenset(Kind)), Offer(frozenset(), "it is busy")
LITTLE, MUCH = Offload(noise_multiplier=0.1), Offload(noise_multiplier=3.0)
OWNED = Offload(allow_raw_offload=True)


@pytest.mark.parametrize(
    ("family", "offer", "settings", "wanted"),
    [
        ("flow_image", ANY, OWNED, Kind.RAW),
        ("language", ANY, OWNED, Kind.RAW),
        ("flow_image", ANY, LITTLE, Kind.LATENTS),
        (
            "flow_image",
            Offer(frozenset({Kind.LATENTS})),
            OWNED.model_copy(update={"noise_multiplier": 0.1}),
            Kind.LATENTS,
        ),
        ("flow_image", ANY, MUCH, "noise of 33.9 on each value leaves too little"),
        ("language", ANY, LITTLE, "language cannot be learned from noised samples"),
        ("flow_image", Offer(frozenset({Kind.RAW})), LITTLE, "raw samples only"),
        ("flow_image", NONE, OWNED, "it is busy"),
        ("flow_image", Offer(frozenset()), OWNED, "it gave no reason"),
    ],
)
def test_raw_samples_leave_only_where_the_owner_allowed_it_and_noised_ones_only_where_they_teach(
    family, offer, settings, wanted
):
    found = kind_for(family, offer, settings)
    assert found is wanted if isinstance(wanted, Kind) else wanted in found


@pytest.mark.parametrize("max_epsilon", [1.0, 10.0, 30.0, 1e9])
def test_as_many_samples_are_affordable_as_the_budget_holds_and_not_one_more(max_epsilon):
    privacy, spent = Privacy(max_epsilon=max_epsilon), [Spending(4.0, 1.0, 3)]

    def fits(count):
        return count == 0 or epsilon([*spent, cost(count, 3.0)], privacy.target_delta) <= max_epsilon

    found = affordable(40, 3.0, spent, privacy)
    assert fits(found)
    assert found == 40 or not fits(found + 1)


def test_nothing_is_affordable_of_nothing():
    assert affordable(0, 3.0, [], Privacy()) == 0


class Stub:
    """A trainer that says who it is."""

    def __init__(self, name, ready=True, job_bytes=100):
        self.name, self.ready, self.job_bytes, self.trouble, self.stopped = name, ready, job_bytes, "", False

    def fit(self, job, decision):
        return NotFitted(self.name)

    @contextmanager
    def halted(self):
        self.stopped = True
        yield
        self.stopped = False

    def look(self, release):
        self.looked_at = release

    def traffic(self):
        return 3, 4


def test_the_decision_says_who_learns():
    trainers = Trainers(Stub("here"), Stub("there"))
    assert trainers.fit(None, lambda: HERE) == NotFitted("here")
    assert trainers.fit(None, lambda: AWAY) == NotFitted("there")
    assert "set offload.enabled" in Trainers(Stub("here"), None).fit(None, lambda: AWAY).reason


def test_an_offload_that_would_pass_the_days_traffic_is_not_begun():
    trainers = Trainers(Stub("here"), Stub("there", job_bytes=100))
    spent = Cost(bytes=850)
    assert trainers.can_offload(Limits(), spent, 50)
    assert trainers.can_offload(Limits(max_bytes_per_day=1000), spent, 50)
    assert not trainers.can_offload(Limits(max_bytes_per_day=999), spent, 50)
    assert not Trainers(Stub("here"), Stub("there", ready=False)).can_offload(Limits(), spent, 50)
    assert not Trainers(Stub("here"), None).can_offload(Limits(), spent, 50)


def test_both_trainers_stop_while_samples_are_forgotten():
    near, far = Stub("here"), Stub("there")
    with Trainers(near, far).halted():
        assert near.stopped
        assert far.stopped
    assert not near.stopped


@pytest.fixture
def state(tmp_path):
    """The noised samples of a device, and a way to restart it with other settings."""

    class State:
        def __init__(self):
            self.database = None
            self.start()

        def start(self, max_epsilon=5000.0, **changes):
            if self.database is not None:
                self.database.close()
            self.database = Database(tmp_path / "agent.db")
            self.journal = SqliteJournal(self.database)
            settings = Offload(**{"noise_multiplier": 0.1, "max_samples": 6, **changes})
            seeds = itertools.count()
            privacy = Privacy(max_epsilon=max_epsilon)
            folder = tmp_path / "offload"
            fresh = lambda: np.random.default_rng(next(seeds))  # noqa: E731
            self.noised = NoisedSamples(folder, self.journal, settings, privacy, fresh)
            return self.noised

    state = State()
    yield state
    state.database.close()


def samples(count, seed=0):
    rng = np.random.default_rng(seed)
    return Batch(rng.uniform(-1, 1, (count, 1, 4, 4)).astype(np.float32), rng.integers(0, 10, count))


def test_a_sample_is_noised_once_paid_once_and_the_same_for_ever(state):
    first = state.noised.of(samples(4), 10, ())
    assert state.journal.spendings() == [cost(4, 0.1)]
    state.start()
    again = state.noised.of(samples(4), 10, ())
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.conditions, again.conditions)
    assert state.journal.spendings() == [cost(4, 0.1)]
    assert np.abs(first.features).max() > 1.0


def test_new_samples_join_the_old_until_there_are_as_many_as_may_ever_leave(state):
    first = state.noised.of(samples(4), 10, ())
    more = state.noised.of(samples(9, seed=1), 10, ())
    np.testing.assert_array_equal(more.features[:4], first.features)
    assert len(more) == 6
    together = epsilon([cost(6, 0.1)], 1e-5)
    assert epsilon(state.journal.spendings(), 1e-5) == pytest.approx(together)
    assert len(state.noised.of(samples(9, seed=2), 10, ())) == 6
    assert state.noised.room() == 6


def test_killed_before_it_paid_a_device_has_sent_nothing_and_draws_anew(state):
    def broken(*_):
        raise StateError("the disk is full")

    whole = state.journal.pay
    state.journal.pay = broken
    with pytest.raises(StateError):
        state.noised.of(samples(4), 10, ())
    state.journal.pay = whole
    assert state.noised.room() == 6
    state.start()
    assert len(state.noised.of(samples(3), 10, ())) == 3
    assert state.journal.spendings() == [cost(3, 0.1)]


def test_killed_between_two_payments_a_device_keeps_what_it_paid_for_and_nothing_else(state):
    first = state.noised.of(samples(2), 10, ())
    whole, state.journal.pay = state.journal.pay, lambda *_: (_ for _ in ()).throw(StateError("the disk is full"))
    with pytest.raises(StateError):
        state.noised.of(samples(4), 10, ())
    state.journal.pay = whole
    state.start()
    kept = state.noised.of(samples(0), 10, ())
    np.testing.assert_array_equal(kept.features, first.features)
    assert state.journal.spendings() == [cost(2, 0.1)]


@pytest.mark.parametrize("changes", [{"noise_multiplier": 0.2}, {"clip_norm": 4.0}])
def test_other_settings_are_another_set_that_is_paid_for_too(state, changes):
    state.noised.of(samples(4), 10, ())
    before = epsilon(state.journal.spendings(), 1e-5)
    state.start(**changes).of(samples(4), 10, ())
    assert epsilon(state.journal.spendings(), 1e-5) > before


def test_what_was_paid_for_and_then_lost_or_damaged_is_paid_for_again(state, tmp_path):
    state.noised.of(samples(4), 10, ())
    path = tmp_path / "offload" / "noised.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert len(state.noised.of(samples(4), 10, ())) == 4
    assert epsilon(state.journal.spendings(), 1e-5) == pytest.approx(epsilon([cost(8, 0.1)], 1e-5))


def test_only_what_the_budget_holds_is_noised(state):
    few = state.start(max_epsilon=10.0, noise_multiplier=3.0, max_samples=100)
    first = few.of(samples(60), 10, (Spending(2.0, 1.0, 1),))
    assert 0 < len(first) < 40
    assert epsilon([*state.journal.spendings(), Spending(2.0, 1.0, 1)], 1e-5) <= 10.0
    assert len(state.start(max_epsilon=0.001).of(samples(5), 10, ())) == 0


def test_forgetting_leaves_no_file_of_an_offload(state, tmp_path):
    state.noised.of(samples(4), 10, ())
    memory = SqliteMemory(state.database)
    assert memory.size() == 0
    forget(Everything(), tmp_path, tmp_path / "spool", state.database)
    assert not (tmp_path / "offload").exists()
    assert state.journal.spendings() == [cost(4, 0.1)]  # what has left is not unsaid


def test_a_participant_whose_decision_is_to_offload_is_ready(tmp_path):
    with closing(Database(tmp_path / "agent.db")) as database:
        journal, memory = SqliteJournal(database), SqliteMemory(database)
        trainers, candidates = Trainers(Stub("here"), Stub("there")), SimpleNamespace(announce=lambda *_: None)
        rest = {"privacy": Privacy(), "figures": dict, "candidates": candidates, "guard": None, "patience_s": 0.1}
        participant = Participant(Serving(), memory, journal, trainers, lambda: AWAY, **rest)
        assert participant.status(StatusQuery("fog-a", 0, "")).ready


def test_the_address_is_the_fogs_unless_the_owner_says_another(tmp_path):
    fog = {"address": "fog.example:9443", "ca": "ca", "release_key": "0" * 64}
    settings = AgentSettings(name="a", state=tmp_path, fog=fog)
    assert settings.offload_address == "fog.example:8444"
    assert not settings.offload.enabled
    other = settings.model_copy(update={"offload": Offload(address="[::1]:7000")})
    assert other.offload_address == "[::1]:7000"


def test_an_agent_that_may_offload_says_why_it_cannot(tmp_path, certificate):
    fog = {"address": "127.0.0.1:1", "ca": str(certificate[0]), "release_key": "0" * 64}
    agent = Agent(AgentSettings(name="a", state=tmp_path / "state", fog=fog, offload={"enabled": True}))
    agent._look_far()
    assert agent._trainers.status() == {
        "enabled": True,
        "ready": False,
        "trouble": "there is no release to learn on yet",
    }
    assert not agent._situation().can_offload
    agent.close()
