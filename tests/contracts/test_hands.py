"""What healing's hands promise, on an agent's own serving and releases and on the simulated device."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from stand_in_release import PUBLIC_KEY, make_release

from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.serving_hands import ServingHands
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.healing.cache import HealedOutputs
from edge_agent.reruns import passes
from edge_agent.serving import Serving
from edge_agent.slots import RELEASE, Slots
from edge_agent.upgrade import Upgrade
from learning_core.errors import DewfallError
from protos.release import Variant, usual
from simulations.healing.device import Broken, SimulatedDevice
from simulations.healing.student import Student

VARIANTS = (usual(6, 1.0), Variant("quick", "student.onnx", 2, 1.0))
HEALED, OTHER = 1, 2  # a condition of which there are healed outputs, and one of which there are none


class OnTheAgent:
    """A device with a good release and one on trial; what happens to it besides its hands."""

    def __init__(self, folder):
        for version in (1, 2):
            make_release(folder / "releases" / str(version), version, steps=6, variants=VARIANTS)
        self.database, self.wanted = Database(folder / "agent.db"), None
        self.serving = Serving()
        store = SqliteSlots(self.database)
        store.store(RELEASE, "", Slots(good="1", trial="2", newest=2), {})
        shelf = ReleaseClient(None, folder / "releases", PUBLIC_KEY, SqliteJournal(self.database))
        self.upgrade = Upgrade(shelf, self.serving, store)
        self.upgrade.restore()
        self.hands = ServingHands(self.serving, self.upgrade, self._want)

    def _want(self, conditions):
        self.wanted = tuple(conditions)

    def request(self, condition, seed):
        return self.serving.answer([condition], seed)

    def turn_the_sampler(self):
        served = self.serving.served
        variants = tuple(dataclasses.replace(each, guidance=2.5) for each in served.variants)
        self.serving.serve(dataclasses.replace(served, variants=variants))

    def spoil_the_file(self):
        (Path(self.serving.served.release.folder) / "student.onnx").write_bytes(b"rubbish")

    def close(self):
        self.database.close()


class Simulated:
    """The simulated device with an untrained student."""

    def __init__(self, student):
        made = Student(student.graph, student.engine, student.weights, student.judge, None, student.inputs)
        self.hands = SimulatedDevice(made, np.random.default_rng(0))

    @property
    def wanted(self):
        return self.hands.asked_for

    def request(self, condition, seed):
        return self.hands.request(np.array([condition]), [seed])[0].samples

    def turn_the_sampler(self):
        self.hands.broken = Broken(guidance=2.5)

    def spoil_the_file(self):
        self.hands.broken = Broken(file=b"rubbish")

    def close(self):
        pass


@pytest.fixture(params=["the agent", "the simulation"])
def device(request, tmp_path):
    if request.param == "the agent":
        device = OnTheAgent(tmp_path)
    else:
        device = Simulated(request.getfixturevalue("flow_student"))
    yield device
    device.close()


@pytest.fixture
def hands(device):
    return device.hands


def noise_of(standing, seed, rows=1):
    return np.random.default_rng(seed).standard_normal((rows, *standing.sample_shape), np.float32)


def outputs(standing):
    """One healed output of one condition."""
    centroids = np.zeros((standing.num_conditions, 4), np.float32)
    centroids[HEALED, 0] = 1
    return HealedOutputs(np.eye(1, 4, dtype=np.float32), np.full((1, *standing.sample_shape), 0.25), centroids, 0.5)


def drawn(hands, condition, *, as_set, seed=7):
    standing = hands.standing()
    conditions = np.array([condition])
    return hands.draw(noise_of(standing, seed), conditions, standing.intended[0].name, as_set=as_set)


def test_a_sound_device_is_set_as_it_is_intended_the_usual_variant_first(hands):
    standing = hands.standing()
    assert standing.live == standing.intended
    assert [each.name for each in standing.intended] == [each.name for each in VARIANTS]
    assert set(standing.known) <= set(range(standing.num_conditions))
    assert (standing.cache, hands.files_sound(), hands.standing().identity) == (None, True, standing.identity)
    logits, _ = standing.judge.look(noise_of(standing, 0, rows=2))
    assert logits.shape == (2, standing.num_conditions)


def test_answers_to_others_are_recent_the_newest_last_and_those_to_healing_are_not(device, hands):
    given = [device.request(condition, seed) for condition, seed in ((0, 10), (3, 11), (1, 12))]
    hands.ask([2], 13)
    recent = hands.recent()
    assert [(each.conditions, each.seed) for each in recent] == [((0,), 10), ((3,), 11), ((1,), 12)]
    assert [each.at_s for each in recent] == sorted(each.at_s for each in recent)
    for each, samples in zip(recent, given, strict=True):
        assert len(each.samples) == 1
        assert (each.took_ms >= 0, each.variant) == (True, VARIANTS[0].name)
        np.testing.assert_array_equal(each.samples, samples)


def test_it_is_asked_as_anybody_and_gets_what_anybody_gets(device, hands):
    asked = hands.ask([OTHER], 7)
    assert (asked.conditions, asked.seed, asked.samples.shape) == ((OTHER,), 7, (1, *hands.standing().sample_shape))
    np.testing.assert_array_equal(asked.samples, device.request(OTHER, 7))
    np.testing.assert_array_equal(asked.samples, drawn(hands, OTHER, as_set=True))
    assert hands.ask([0, 1, 2], 7).samples.shape[0] == 3


@pytest.mark.parametrize("conditions", [[], [-1], [10], [0, 99]])
def test_conditions_that_there_are_not_are_refused(hands, conditions):
    with pytest.raises(DewfallError):
        hands.ask(conditions, 7)


def test_a_variant_that_is_gone_draws_as_the_usual_one(hands):
    standing = hands.standing()
    odd = hands.draw(noise_of(standing, 7), np.array([OTHER]), "gone", as_set=True)
    np.testing.assert_array_equal(odd, drawn(hands, OTHER, as_set=True))


def test_a_sampler_that_was_turned_shows_and_is_restored(device, hands):
    before, identity = drawn(hands, OTHER, as_set=True), hands.standing().identity
    device.turn_the_sampler()
    standing = hands.standing()
    assert standing.live != standing.intended
    assert standing.identity == identity
    assert np.abs(drawn(hands, OTHER, as_set=True) - before).max() > 1e-3
    np.testing.assert_array_equal(drawn(hands, OTHER, as_set=False), before)
    hands.restore_sampler()
    assert hands.standing().live == standing.intended
    np.testing.assert_array_equal(drawn(hands, OTHER, as_set=True), before)


def test_a_cheaper_variant_answers_until_any_may_again(hands):
    hands.prefer_cheaper()
    cheaper = {each.name: each for each in hands.standing().live}[hands.ask([OTHER], 7).variant]
    assert passes(cheaper) < passes(hands.standing().live[0])
    hands.prefer_usual()
    assert hands.ask([OTHER], 7).variant == VARIANTS[0].name


def test_what_is_sound_is_loaded_anew_and_stays_what_it_is(hands):
    before, identity = drawn(hands, OTHER, as_set=True), hands.standing().identity
    hands.answer_from(outputs(hands.standing()), identity)
    hands.reverify()
    assert (hands.standing().identity, hands.standing().cache) == (identity, None)
    np.testing.assert_array_equal(drawn(hands, OTHER, as_set=True), before)


def test_a_file_that_was_changed_is_noticed_and_not_loaded_but_left(device, hands):
    assert hands.files_sound()
    device.spoil_the_file()
    identity = hands.standing().identity
    assert not hands.files_sound()
    with pytest.raises(DewfallError):
        hands.reverify()
    assert hands.standing().identity == identity
    hands.roll_back("its file was changed", identity)
    assert hands.files_sound()
    assert hands.standing().identity != identity


def test_healed_outputs_answer_their_conditions_and_the_student_is_seen_without_them(hands):
    standing = hands.standing()
    before = {condition: hands.ask([condition], 7).samples for condition in (HEALED, OTHER)}
    cache = outputs(standing)
    hands.answer_from(cache, standing.identity)
    assert hands.standing().cache is cache
    assert hands.standing().identity == standing.identity
    np.testing.assert_array_equal(hands.ask([HEALED], 7).samples, cache.outputs)
    np.testing.assert_array_equal(hands.ask([OTHER], 7).samples, before[OTHER])
    np.testing.assert_array_equal(drawn(hands, HEALED, as_set=True), before[HEALED])


def test_what_is_left_takes_the_healed_outputs_of_its_student_with_it(hands):
    identity = hands.standing().identity
    hands.answer_from(outputs(hands.standing()), identity)
    hands.roll_back("it looks wrong", identity)
    assert hands.standing().cache is None
    np.testing.assert_array_equal(hands.ask([HEALED], 7).samples, drawn(hands, HEALED, as_set=True))


def test_what_was_looked_at_and_is_served_no_more_is_neither_left_nor_answered_for(hands):
    looked_at = hands.standing().identity
    hands.roll_back("it looks wrong", looked_at)
    now = hands.standing().identity
    with pytest.raises(DewfallError):
        hands.roll_back("it looks wrong", looked_at)
    with pytest.raises(DewfallError):
        hands.answer_from(outputs(hands.standing()), looked_at)
    assert (hands.standing().identity, hands.standing().cache) == (now, None)


def test_the_conditions_last_asked_for_are_the_only_ones(device, hands):
    for conditions in ([3, 4], [5], []):
        hands.ask_for_data(conditions)
        assert set(device.wanted) == set(conditions)


def test_while_nothing_is_served_there_is_nothing_to_look_at_and_nothing_can_be_done():
    hands = ServingHands(Serving(), None, lambda _: None)
    assert (hands.standing(), hands.recent()) == (None, [])
    for impossible in (lambda: hands.ask([0], 1), hands.files_sound, hands.prefer_cheaper):
        with pytest.raises(DewfallError):
            impossible()
