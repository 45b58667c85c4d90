import json

import numpy as np
import pytest

from learning_core import params
from learning_core.samples import Batch
from learning_core.updates import ModelVersion
from protos.flower_records import Declined, TrainRequest, decode_train_reply, encode_train_reply
from simulations.fleet import Quality, SimulatedDevice, learned_base
from simulations.scenarios.forgetting import NEW, OLD, Setting, claims, federate, run

TINY = Setting(
    devices=3, rounds=2, local_steps=2, samples_per_device=10, base_steps=6, images_per_condition=4, clip_norm=0.5
)


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(0)
    images = Batch(rng.uniform(-1, 1, (80, 1, 8, 8)).astype(np.float32), np.arange(80) % 10)
    return learned_base(images, images, OLD, 10, 4, 0)


def quality(old, new):
    return Quality({**dict.fromkeys(OLD, old), **dict.fromkeys(NEW, new)}, 0.0)


@pytest.mark.parametrize(
    ("after", "naive", "verdicts"),
    [
        (quality(1.0, 1.0), quality(0.5, 1.0), ["holds", "holds", "holds"]),
        (quality(0.5, 0.2), quality(1.0, 1.0), ["falls", "falls", "falls"]),
    ],
)
def test_verdicts_follow_from_the_qualities(after, naive, verdicts):
    before = quality(1.0, 0.0)
    found = claims([before, after], [before, naive], Setting(images_per_condition=1000))
    assert [claim.verdict for claim in found] == verdicts


def test_an_update_is_no_longer_than_the_clip_norm_and_a_device_without_samples_declines(base):
    request = TrainRequest("simulated", 1, ModelVersion(1, 0), params.zeros(base.shapes), 0.1, 0.0, 1.0, 60.0)
    full = SimulatedDevice(base.real, base, TINY.recipe())
    reply = decode_train_reply(encode_train_reply(full.train(request)), base.shapes)
    assert not isinstance(reply, Declined)
    assert 0 < params.norm(reply.update.update.delta) <= 0.1
    empty = SimulatedDevice(Batch(base.real.features[:0], base.real.conditions[:0]), base, TINY.recipe())
    assert isinstance(empty.train(request), Declined)


def test_a_round_in_which_nobody_answers_moves_nothing_but_by_noise(base):
    adapters = []
    federate(lambda kind, payloads: {}, base, TINY, lambda _, adapter: adapters.append(adapter))
    assert params.norm(adapters[-1]) == 0.0
    noisy = Setting(devices=3, rounds=1, noise_multiplier=1.0, clip_norm=0.5)
    federate(lambda kind, payloads: {}, base, noisy, lambda _, adapter: adapters.append(adapter))
    size = sum(value.size for value in adapters[-1].values())
    assert params.norm(adapters[-1]) == pytest.approx(0.5 / 3 * size**0.5, rel=0.05)


def test_the_scenario_runs_and_reports_what_it_is(tmp_path, capsys):
    run(tmp_path, TINY, "inline", as_json=True)
    content = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(capsys.readouterr().out) == content
    assert content["figures"]["simulated"] is True
    assert len(content["figures"]["rehearsal"]) == TINY.rounds + 1
    assert content["figures"]["privacy"]["epsilon"] == "none: no noise was added"
    assert "simulated" in (tmp_path / "report.html").read_text()
