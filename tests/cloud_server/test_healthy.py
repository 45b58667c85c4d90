import numpy as np
import pytest
import torch

from cloud_server.distillation import Base, Speaker, spoken
from cloud_server.healthy import (
    SAMPLES,
    UPDATES,
    Onlooker,
    decode_updates,
    encode_updates,
    healthy_harms,
    healthy_updates,
    seen_by_devices,
)
from cloud_server.measurement import Sampler, balanced, noise_for
from learning_core.errors import Malformed
from learning_core.metrics.golden import FEWEST_HEALTHY, HARMS
from learning_core.models.flow_image import FlowImage, FlowImageConfig
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes, start_factors
from learning_core.models.weights import weights_of
from learning_core.params import shapes_of, zeros
from learning_core.samples import Batch
from protos.codec import encode_params

TINY = FlowImageConfig(side=4, width=8, depth=1, heads=2, num_conditions=4)
KNOWN = (0, 1)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model = FlowImage(TINY)
    torch.nn.init.normal_(model.out.weight, std=0.1)
    return Base(TINY, weights_of(model), start_factors(TINY, 2, 0), 4.0, KNOWN)


@pytest.fixture(scope="module")
def held_out():
    images = np.random.default_rng(0).uniform(-1, 1, (120, 1, 4, 4)).astype(np.float32)
    return Batch(images, balanced(range(4), 30))


@pytest.fixture(scope="module")
def updates(base, held_out):
    return healthy_updates(base, held_out, seed=3)


def onlooker(base, steps=2):
    torch.manual_seed(1)
    asked = balanced(KNOWN, 5)
    noise = np.random.default_rng(0).standard_normal((10, 1, 4, 4), np.float32)
    features = np.random.default_rng(1).standard_normal((2, 10, 64), np.float32)
    return Onlooker(Judge(1, 4, 4).eval(), Sampler(steps, 1.0), noise, asked, *features)


def test_devices_learn_in_turns_and_there_are_enough_of_their_updates(updates):
    assert len(updates) == UPDATES >= FEWEST_HEALTHY
    shapes = adapter_shapes(TINY, 2, KNOWN)
    assert all(shapes_of(each) == shapes for each in updates)
    assert len({each["label_rows"].tobytes() for each in updates}) == len(updates)


def test_they_see_real_samples_of_new_conditions_or_of_old_ones_when_none_is_new(base, held_out):
    for samples in seen_by_devices(held_out, base, seed=0):
        assert set(samples.conditions.tolist()) <= {2, 3}
        assert 0 < len(samples) <= SAMPLES
    everything = Base(TINY, base.weights, base.start, base.alpha, (0, 1, 2, 3))
    assert all(len(samples) for samples in seen_by_devices(held_out, everything, seed=0))


def test_their_harms_are_told_in_every_setting_and_an_update_of_nothing_does_none(base, held_out, updates):
    found = healthy_harms(base, [onlooker(base), onlooker(base, 1)], held_out, updates, seed=3)
    assert found.shape == (2, len(updates), len(HARMS))
    assert np.isfinite(found).all()
    assert not found[1, :, 4].any()
    nothing = zeros(adapter_shapes(TINY, 2, KNOWN))
    assert not healthy_harms(base, [onlooker(base)], held_out, [nothing], seed=3)[0, 0, :4].any()


def test_updates_are_read_back_as_they_were_written(updates):
    again = decode_updates(encode_updates(updates))
    assert all((again[i][name] == updates[i][name]).all() for i in range(len(updates)) for name in updates[i])
    with pytest.raises(Malformed, match="of no update"):
        decode_updates(encode_params({"x/label_rows": np.zeros(1, np.float32)}))


def test_each_condition_of_the_golden_set_is_drawn_by_who_speaks_for_it(base):
    torch.manual_seed(2)
    one, other = FlowImage(TINY), FlowImage(TINY)
    torch.nn.init.normal_(other.out.weight)
    noise, asked = noise_for(one, 4, 0), np.array([0, 1, 0, 1])
    sampler = Sampler(1, 1.0)
    both = spoken([Speaker(one, (0,), sampler), Speaker(other, (1,), sampler)], noise, asked)
    alone = spoken([Speaker(one, (0, 1), sampler)], noise, asked)
    assert (both[::2] == alone[::2]).all()
    assert (both[1::2] != alone[1::2]).any()
