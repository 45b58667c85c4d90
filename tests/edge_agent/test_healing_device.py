"""Healing on an agent's own serving and releases: what its hands see and do, and what is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent import healer as healer_module
from edge_agent.drivers.healing_loop import HealingLoop, Pacer
from edge_agent.drivers.overhead import measure_pair
from edge_agent.drivers.serving_hands import ServingHands
from edge_agent.drivers.sqlite_incidents import SqliteIncidents
from edge_agent.drivers.sqlite_store import Database
from edge_agent.healed_engine import HealedEngine
from edge_agent.healer import Healer
from edge_agent.healing.cache import HealedOutputs
from edge_agent.healing.diagnosis import Cause
from edge_agent.healing.incident import Incident, Outcome, Tried
from edge_agent.healing.loop import Rules, State
from edge_agent.healing.playbook import Remedy
from edge_agent.healing.signals import Signal
from edge_agent.reruns import approve, evidence
from edge_agent.serving import Serving, served_with
from learning_core.errors import DewfallError, Tampered
from learning_core.federation.lora_algebra import serving_inputs
from protos.release import Variant


class Models:
    """What `Upgrade` does, on one release that can be loaded anew."""

    def __init__(self, serving, release):
        self.serving, self.release, self.calls = serving, release, []

    def reverify(self):
        self.calls.append("reverify")
        if (Path(self.release.folder) / "student.onnx").read_bytes() == b"rubbish":
            raise Tampered("the student is not what the manifest says")
        self.serving.serve(served_with(self.release, None))

    def roll_back(self, reason, kind, identity):
        self.calls.append("roll_back")
        self.serving.serve(served_with(self.release, None))
        return "release 1 is served now"


class Gone:
    """A student that draws something else."""

    def __init__(self, inner):
        self.inner = inner

    def adapted(self, inputs):
        return type(self)(self.inner.adapted(inputs))

    def embed(self, features):
        return self.inner.embed(features)

    def generate(self, noise, conditions, steps, guidance):
        return -self.inner.generate(noise, conditions, steps, guidance)


@pytest.fixture
def device(release, tmp_path):
    serving = Serving()
    serving.serve(served_with(release, None))
    models, wanted = Models(serving, release), []
    database = Database(tmp_path / "agent.db")
    yield serving, models, ServingHands(serving, models, wanted.extend), SqliteIncidents(database, lambda: 7.0), wanted
    database.close()


def healer(device, **rules):
    _, _, hands, incidents, _ = device
    return Healer(hands, Rules(**rules), incidents.state(), np.random.default_rng(0), incidents.keep)


def ticks(healer, serving, count, seed=0):
    incidents = []
    for tick in range(count):
        for request in range(4):
            serving.answer([(tick + request) % 5], seed * 1000 + tick * 10 + request)
        incidents += healer.tick()
    return incidents


def spoil(serving):
    served = serving.served
    serving.serve(replace(served, engines={graph: Gone(engine) for graph, engine in served.engines.items()}))


def test_nothing_is_served_and_nothing_is_done(tmp_path):
    serving = Serving()
    hands = ServingHands(serving, Models(serving, None), lambda _: None)
    assert hands.standing() is None
    assert Healer(hands, Rules(), State(), np.random.default_rng(0), lambda *_: None).tick() == []


def test_a_sound_agent_is_left_alone_and_its_own_questions_count_for_nobody(device):
    serving, models, hands, _, _ = device
    assert ticks(healer(device), serving, 12) == []
    assert models.calls == []
    seeds = [each.seed for each in hands.recent()]
    assert len(seeds) == len(set(seeds)) > 16
    assert max(seeds) < 200


def test_a_student_that_went_bad_in_memory_is_loaded_anew(device):
    serving, models, _, incidents, _ = device
    watching = healer(device)
    ticks(watching, serving, 3)
    spoil(serving)
    found = ticks(watching, serving, 3, seed=1)
    assert [each.outcome for each in found] == [Outcome.HEALED]
    assert found[0].causes == (Cause.MODEL,)
    assert models.calls == ["reverify"]
    assert incidents.last(5)[0]["sentence"].startswith(
        "the student became worse; the release was verified and loaded anew"
    )
    assert incidents.counts() == {"healed": 1, "cause.model": 1}


def test_what_was_learned_on_the_device_is_measured_too(device, release, stand_in):
    serving, _, hands, _, _ = device
    assert approve(hands, hands.standing(), {}).conditions == release.manifest.known_conditions
    manifest = release.manifest
    inputs = serving_inputs(release.start, stand_in.good_adapter(), manifest.num_conditions, manifest.known_conditions)
    serving.serve(served_with(release, inputs))
    approval = approve(hands, hands.standing(), {})
    assert approval.conditions == tuple(range(10))
    assert np.linalg.norm(approval.reference.centroids, axis=1) == pytest.approx(np.ones(10))


def test_a_changed_file_is_found_without_any_answer_and_gone_back_from(device):
    serving, models, hands, _, _ = device
    watching = healer(device)
    watching.tick()
    student = Path(serving.served.release.folder) / "student.onnx"
    data = student.read_bytes()
    student.write_bytes(b"rubbish")
    assert not hands.files_sound()
    models.roll_back = lambda *_: student.write_bytes(data)
    found = watching.tick()
    assert (found[0].causes, found[0].outcome) == ((Cause.CORRUPT,), Outcome.HEALED)
    assert [each.remedy for each in found[0].tried] == [Remedy.REVERIFY, Remedy.ROLL_BACK]


def test_a_setting_that_was_changed_is_set_as_intended(device):
    serving, _, _, _, _ = device
    watching = healer(device)
    ticks(watching, serving, 3)
    served = serving.served
    other = tuple(replace(each, steps=1, guidance=7.0) for each in served.variants)
    serving.serve(replace(served, variants=other, engines={g: Halfway(e) for g, e in served.engines.items()}))
    found = ticks(watching, serving, 3, seed=1)
    assert Cause.SAMPLER in found[0].causes
    assert serving.served.variants == served.variants


class Halfway(Gone):
    """A student to whom the number of steps makes a difference."""

    def generate(self, noise, conditions, steps, guidance):
        return self.inner.generate(noise, conditions, steps, guidance) * (1 if steps > 1 else 0.3)


def test_remedies_that_are_off_are_left_to_a_person(device):
    serving, models, _, incidents, _ = device
    watching = healer(device, off=frozenset({Remedy.REVERIFY, Remedy.ROLL_BACK}))
    ticks(watching, serving, 3)
    spoil(serving)
    found = ticks(watching, serving, 3, seed=1)
    assert [each.outcome for each in found] == [Outcome.GAVE_UP]
    assert models.calls == []
    assert "[healing]" in incidents.last(1)[0]["sentence"]


def test_what_was_learned_outlives_a_restart(device):
    serving, _, _, incidents, _ = device
    watching = healer(device)
    ticks(watching, serving, 3)
    spoil(serving)
    ticks(watching, serving, 3, seed=1)
    assert incidents.state().playbook == watching.state.playbook
    assert (Cause.MODEL, Remedy.REVERIFY) in incidents.state().playbook


def test_a_state_that_cannot_be_read_begins_anew(device):
    device[3]._database.set_fact("healing", {"tick": "many"})
    assert device[3].state() == State()


def test_a_cheaper_variant_is_one_with_fewer_passes_and_without_one_that_is_said(device, release):
    serving, _, hands, _, _ = device
    with pytest.raises(DewfallError, match="no variant that is cheaper"):
        hands.prefer_cheaper()
    served = serving.served
    serving.serve(replace(served, variants=(*served.variants, Variant("quick", "student.onnx", 2, 1.0))))
    hands.prefer_cheaper()
    assert serving.draw([0], 1).variant == "quick"
    hands.prefer_usual()
    assert serving.draw([0], 1).variant in {"usual", "quick"}


def test_healed_outputs_answer_their_conditions_and_the_student_the_others(device, release):
    serving, _, hands, _, _ = device
    centroids = np.eye(10, 8, dtype=np.float32)
    output = np.full((1, *release.sample_shape), 0.25, np.float32)
    before = serving.answer([1], 5)
    hands.answer_from(HealedOutputs(centroids[:1], output, centroids, 0.9), serving.served.identity)
    assert np.array_equal(serving.answer([0], 5), output)
    assert np.array_equal(serving.answer([1], 5), before)
    assert hands.standing().cache.conditions() == {0}
    noise = np.zeros((1, *release.sample_shape), np.float32)
    assert not np.array_equal(hands.draw(noise, np.array([0]), "usual", as_set=True), output)


def test_a_healed_engine_answers_a_mixed_request_row_by_row(release):
    centroids = np.eye(10, 8, dtype=np.float32)
    output = np.full((1, *release.sample_shape), 0.25, np.float32)
    engine = HealedEngine(release.engine, HealedOutputs(centroids[:1], output, centroids, 0.9))
    noise = np.random.default_rng(0).standard_normal((3, *release.sample_shape), np.float32)
    found = engine.generate(noise, np.array([0, 1, 0]), 10, 1.0)
    assert np.array_equal(found[[0, 2]], np.concatenate((output, output)))
    assert np.array_equal(found[1:2], release.engine.generate(noise[1:2], np.array([1]), 10, 1.0))


def test_the_samples_wanted_are_those_asked_for_last(device):
    incidents = device[3]
    incidents.want([3, 1])
    assert incidents.wanted() == [1, 3]
    incidents.want([])
    assert incidents.wanted() == []


def test_incidents_are_kept_in_order_and_what_meant_nothing_is_only_counted(device):
    def incident(outcome, sentence):
        tried = (Tried(Cause.MODEL, Remedy.REVERIFY, True),)
        return Incident(1, 2, (Signal.PROBE,), (Cause.MODEL,), tried, outcome, sentence)

    incidents = device[3]
    incidents.keep(State(), [incident(Outcome.HEALED, "one"), incident(Outcome.PASSED, "two")])
    incidents.keep(State(), [incident(Outcome.GAVE_UP, "three")])
    assert [each["sentence"] for each in incidents.last(10)] == ["one", "three"]
    assert incidents.last(1)[0] == {
        "at_s": 7.0,
        "outcome": "gave_up",
        "causes": ["model"],
        "signals": ["probe"],
        "tried": [{"cause": "model", "remedy": "reverify", "worked": True}],
        "sentence": "three",
    }
    assert incidents.counts()["passed"] == 1


def test_a_look_that_takes_long_comes_seldom():
    now = {"s": 0.0, "cpu": 0.0}
    pacer = Pacer(10.0, 0.01, lambda: now["s"], lambda: now["cpu"])
    assert not pacer.is_due()
    now["s"] = 10.0
    assert pacer.is_due()
    with pacer:
        now["cpu"] = 0.5
    now["s"] = 59.0
    assert not pacer.is_due()
    now["s"] = 60.0
    assert pacer.is_due()


def test_the_loop_tells_its_counts_and_answers_what_a_person_asks(device, tmp_path):
    from edge_agent.config import HealingSettings

    serving, models, _, incidents, _ = device
    loop = HealingLoop(HealingSettings(off=["roll_back"]), incidents._database, serving, models)
    assert loop.describe() == {"enabled": True, "incidents": {}, "wants_samples_of": []}
    assert loop.figures() == {"incidents_healed": 0.0, "incidents_gave_up": 0.0}
    assert loop.operations()["incidents"]({"count": 5}) == ({"incidents": [], "counts": {}}, b"")
    with pytest.raises(DewfallError, match="1 to 200"):
        loop.operations()["incidents"]({"count": 0})


def test_a_remedy_nobody_knows_cannot_be_switched_off():
    from pydantic import ValidationError

    from edge_agent.config import HealingSettings

    with pytest.raises(ValidationError):
        HealingSettings(off=["pray"])


def test_healed_outputs_of_a_student_that_was_exchanged_are_not_given(device, release):
    serving, _, hands, _, _ = device
    outputs = HealedOutputs(np.eye(1, 8, dtype=np.float32), np.zeros((1, *release.sample_shape), np.float32), None, 0.9)
    before = serving.served
    serving.serve(replace(before, adapter="another"))
    with pytest.raises(DewfallError, match="another student"):
        hands.answer_from(outputs, before.identity)
    assert not isinstance(serving.served.engine, HealedEngine)


def test_what_came_after_the_evidence_is_looked_at_and_not_gone_back_from(device, monkeypatch):
    serving, models, _, _, _ = device
    watching = healer(device, off=frozenset({Remedy.REVERIFY}))
    ticks(watching, serving, 3)
    sound = serving.served
    spoil(serving)

    def then_exchanged(*arguments):
        found = evidence(*arguments)
        serving.serve(replace(sound, adapter="another"))
        return found

    monkeypatch.setattr(healer_module, "evidence", then_exchanged)
    found = ticks(watching, serving, 3, seed=1)
    assert models.calls == []
    assert [(each.outcome, each.tried) for each in found] == [(Outcome.PASSED, ())]
    assert watching.state.spent == ()


def test_overhead_is_measured_on_the_student_and_not_on_healed_outputs(device, release):
    serving, _, hands, _, _ = device
    centroids = np.eye(10, 8, dtype=np.float32)
    output = np.full((1, *release.sample_shape), 0.25, np.float32)
    hands.answer_from(HealedOutputs(centroids[:1], output, centroids, 0.9), serving.served.identity)
    assert measure_pair(serving, 1, 3).bare_ms > 0
    with pytest.raises(DewfallError, match="healed outputs answer condition 0"):
        measure_pair(serving, 0, 3)
