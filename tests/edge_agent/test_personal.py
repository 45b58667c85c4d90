import numpy as np
import pytest
import torch

from edge_agent.adapters import Worn, inputs_of
from edge_agent.drivers.forgetting import forget
from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.fitting import student
from edge_agent.guard import Guard, Hold
from edge_agent.offload import LEARNING
from edge_agent.personal import A_ROUND, AGAIN_S, Personal
from edge_agent.selection import Everything
from edge_agent.serving import Serving
from edge_agent.slots import PERSONAL
from edge_agent.upgrade import Upgrade
from edge_agent.values import Action, Arrival, Decision, Fitted, Ingested, NewSample, NotFitted, Reason
from learning_core.federation.lora_algebra import serving_inputs, together
from learning_core.memory.keep_budget import Threshold
from learning_core.models.lora import adapter_shapes, start_factors, write_adapter
from learning_core.params import add, digest, scale, shapes_of
from learning_core.samples import Batch

GO = Decision(Action.TRAIN, Reason.READY, "nothing stands against training")
MIN_NEW = 8


class StandInTrainer:
    """Adds what it was told to add to where it starts."""

    def __init__(self, change):
        self.change, self.jobs, self.asked = change, [], []

    def fit(self, job, decision):
        self.jobs.append(job)
        self.asked.append(decision())
        if self.asked[-1].action not in LEARNING:
            return NotFitted(self.asked[-1].sentence)
        return self.change if isinstance(self.change, NotFitted) else Fitted(add(job.shared, self.change), 60, 0.5, 1.5)


class Device:
    def __init__(self, state, key, change):
        self.state, self.decision, self.at_work, self.arrivals, self.now_s = state, GO, False, 0, 0.0
        self.database = Database(state / "agent.db")
        self.memory, self.journal = SqliteMemory(self.database), SqliteJournal(self.database)
        self.serving, self.trainer = Serving(), StandInTrainer(change)
        shelf = ReleaseClient(None, state / "releases", key, self.journal)
        self.upgrade = Upgrade(shelf, self.serving, SqliteSlots(self.database))
        self.database.set_fact("served_release", 1)
        self.upgrade.restore()
        self.personal = Personal(
            self.serving,
            self.memory,
            self.journal,
            self.trainer,
            self.upgrade,
            Guard(),
            lambda: self.decision,
            lambda: self.at_work,
            MIN_NEW,
            lambda: self.now_s,
        )

    def keep(self, count):
        self.arrivals += 1
        batch = Batch(np.zeros((count, 1, 4, 4), np.float32), np.full(count, 7))
        new = [NewSample(batch.features[i], np.zeros(16, np.float32), 7, 0, 0.5) for i in range(count)]
        nothing = np.zeros(count, np.int64)
        arrival = Arrival(f"a{self.arrivals}", "d", batch, nothing, nothing)
        self.memory.store(Ingested(arrival, new, {}, Threshold()), 1 << 20)

    @property
    def release(self):
        return self.serving.served.release

    @property
    def worn(self):
        return self.upgrade.worn(self.release)[0]


@pytest.fixture
def device(tmp_path, stand_in):
    stand_in.make_release(tmp_path / "releases" / "1")
    device = Device(tmp_path, stand_in.PUBLIC_KEY, scale(stand_in.good_adapter(), 0.1))
    device.keep(MIN_NEW)
    yield device
    device.database.close()


def test_a_personal_adapter_is_the_change_on_top_of_the_shared_one_and_on_trial(device, stand_in):
    device.upgrade.adopt(device.release, stand_in.good_adapter())
    device.personal.step()
    np.testing.assert_allclose(device.worn.personal["label_rows"], 0.1 * stand_in.centres()[5:], rtol=1e-5)
    assert device.upgrade.trials()[0].kind == PERSONAL
    drawn = device.serving.answer([7], seed=1)
    np.testing.assert_allclose(drawn.ravel(), 1.1 * stand_in.centres()[7], rtol=1e-5)


def test_it_is_learned_on_the_base_too_and_again_only_from_enough_that_is_new(device):
    device.personal.step()
    device.personal.step()
    device.keep(MIN_NEW - 1)
    device.personal.step()
    assert len(device.trainer.jobs) == 1
    device.keep(1)
    device.personal.step()
    assert len(device.trainer.jobs) == 2
    assert digest(device.trainer.jobs[1].shared) != digest(device.trainer.jobs[0].shared)  # from where it had come


def test_it_waits_for_the_governor_for_samples_and_for_rounds(device):
    device.at_work = True
    device.personal.step()
    device.at_work, device.decision = False, Decision(Action.WAIT, Reason.HEAT, "the chip has 80.0 °C")
    device.personal.step()
    device.decision = Decision(Action.OFFLOAD, Reason.HEAT, "the fog may")  # nothing of it ever leaves the device
    device.personal.step()
    assert device.trainer.jobs == []


def test_a_round_that_comes_meanwhile_is_told_to_the_trainer(device):
    fit = device.trainer.fit

    def with_a_round(job, decision):
        device.at_work = True
        return fit(job, decision)

    device.trainer.fit = with_a_round
    device.personal.step()
    assert device.trainer.asked == [A_ROUND]


def test_one_that_was_stopped_is_learned_another_time(device, stand_in):
    device.trainer.change = NotFitted("training was stopped")
    device.personal.step()
    device.trainer.change = stand_in.zero_adapter()
    device.personal.step()
    assert len(device.trainer.jobs) == 2
    assert device.trainer.jobs[0].name == device.trainer.jobs[1].name


def test_one_that_harms_is_not_served_and_its_samples_are_not_tried_again(device, stand_in):
    device.trainer.change = stand_in.bad_adapter()
    device.personal.step()
    device.personal.step()
    assert len(device.trainer.jobs) == 1
    assert device.worn.personal is None
    assert device.database.counts()["personal.rolled_back"] == 1


def test_when_the_shared_adapter_changes_it_is_proven_again_or_dropped(device, stand_in):
    device.personal.step()
    personal = device.worn.personal
    device.upgrade.adopt(device.release, stand_in.good_adapter())
    assert device.worn.personal is None
    device.personal.step()
    assert digest(device.worn.personal) == digest(personal)
    assert len(device.trainer.jobs) == 1
    bad = stand_in.bad_adapter()
    device.upgrade.adopt(device.release, bad)
    device.trainer.change = NotFitted("it is too hot")
    device.personal.step()
    assert device.upgrade.worn(device.release)[1] is None


def test_forgetting_all_samples_drops_it_with_its_files_and_its_jobs(device):
    device.personal.step()
    (device.state / "personal").mkdir()
    forget(Everything(), device.state, device.state / "spool", device.database)
    assert not list((device.state / "releases").glob("*.personal"))
    assert not (device.state / "personal").exists()
    assert device.upgrade.worn(device.release) == (Worn(), None)


@pytest.fixture(scope="module")
def both():
    """Two adapters of the real flow model, by names and shapes."""
    rng = np.random.default_rng(5)

    def some(shapes, size=0.05):
        return {name: rng.normal(0, size, shape).astype(np.float32) for name, shape in shapes.items()}

    return some


def test_the_agents_graph_with_both_adapters_is_the_function_that_training_composed(flow_release, flow_folder, both):
    manifest = flow_release.manifest
    shared, personal = both(manifest.adapter_shapes), both(manifest.adapter_shapes)
    engine = flow_release.engine.adapted(inputs_of(flow_release, Worn(shared, personal)))
    model = student(flow_folder, manifest).eval()
    write_adapter(model, add(shared, personal))
    assert velocity(engine, model) < 1e-4


def test_a_personal_adapter_on_factors_and_a_rank_of_its_own_is_served_side_by_side(flow_release, flow_folder, both):
    manifest, config = flow_release.manifest, student(flow_folder, flow_release.manifest).config
    shared = both(manifest.adapter_shapes)
    of_rank_3 = adapter_shapes(config, 3, manifest.known_conditions)
    own, personal = start_factors(config, 3, seed=99), both(of_rank_3)
    sizes = manifest.num_conditions, manifest.known_conditions
    fed = together(serving_inputs(flow_release.start, shared, *sizes), serving_inputs(own, personal, *sizes))
    assert shapes_of(fed)["tm.0.lora_A"][0] == manifest.rank + 3
    model = student(flow_folder, manifest).eval()
    write_adapter(model, shared)
    factor = manifest.alpha / manifest.rank  # the graph's own, for every rank
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "lora_A"):
                module.weight += factor * torch.from_numpy(personal[f"{name}.lora_B"] @ own[f"{name}.lora_A"])
        model.label.rows += torch.from_numpy(personal["label_rows"])
    assert velocity(flow_release.engine.adapted(fed), model) < 1e-4


def velocity(engine, model):
    """The largest difference of one step between graph and model."""
    rng = np.random.default_rng(0)
    noise, asked = rng.standard_normal((6, 1, 8, 8), np.float32), np.array([0, 4, 5, 7, 9, 9])
    with torch.no_grad():
        wanted = model(torch.from_numpy(noise), torch.zeros(6), torch.from_numpy(asked)).numpy()
    return float(np.abs(engine.generate(noise, asked, 1, 1.0) - noise - wanted).max())


def test_one_whose_shared_adapter_was_left_meanwhile_is_not_served_and_learned_anew(device, stand_in):
    device.upgrade.adopt(device.release, stand_in.good_adapter())
    fit = device.trainer.fit

    def with_a_rollback(job, decision):
        if len(device.trainer.jobs) == 0:
            device.upgrade.roll_back("a person")
        return fit(job, decision)

    device.trainer.fit = with_a_rollback
    device.personal.step()
    assert device.upgrade.worn(device.release) == (Worn(), None)
    assert "personal.learned" not in device.database.counts()
    device.personal.step()
    assert device.worn.personal is not None
    assert device.database.counts()["personal.learned"] == 1


def test_one_learned_while_its_release_was_verified_again_is_served(device):
    fit = device.trainer.fit

    def meanwhile(job, decision):
        device.upgrade.reverify()
        return fit(job, decision)

    device.trainer.fit = meanwhile
    device.personal.step()
    assert device.worn.personal is not None


def test_one_that_is_only_held_stays_on_the_disk_and_is_tried_again_later(device, stand_in, monkeypatch):
    device.personal.step()
    personal = device.worn.personal
    device.upgrade.adopt(device.release, stand_in.good_adapter())
    device.trainer.change = NotFitted("it is too hot")
    looks = []
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "check", lambda *_: looks.append(1) or Hold(None, ("it takes 2 times as long",)))
        for _ in range(3):
            device.personal.step()
    assert len(looks) == 1
    assert digest(device.upgrade.worn(device.release)[1]) == digest(personal)
    device.now_s += AGAIN_S
    device.personal.step()
    assert digest(device.worn.personal) == digest(personal)


def test_where_nothing_is_new_no_sample_and_no_adapter_is_read(device, monkeypatch):
    device.personal.step()
    for owner, name in ((device.memory, "samples"), (device.upgrade, "worn")):
        monkeypatch.setattr(owner, name, lambda: pytest.fail("it was read"))
    for _ in range(3):
        device.personal.step()


def test_after_all_was_forgotten_enough_new_samples_are_enough_and_no_key_comes_again(device):
    device.personal.step()
    newest = device.memory.newest(1)[0]["key"]
    forget(Everything(), device.state, device.state / "spool", device.database)
    device.upgrade.drop_personal()
    device.keep(MIN_NEW)
    assert device.memory.newest(MIN_NEW)[0]["key"] == newest + 1
    device.personal.step()
    assert len(device.trainer.jobs) == 2
