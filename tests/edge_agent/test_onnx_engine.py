import threading

import numpy as np
import pytest

from edge_agent.drivers.onnx_engine import OnnxEngine, open_session
from edge_agent.drivers.overhead import bare_loop
from learning_core.errors import Malformed
from learning_core.federation.lora_algebra import serving_inputs

STEPS = 10


def noise_for(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 1, 4, 4), np.float32)


def inputs_for(stand_in, adapter):
    return serving_inputs(stand_in.start_factors(), adapter, stand_in.CONDITIONS, stand_in.KNOWN)


def test_a_straight_flow_lands_on_what_was_asked(release, stand_in):
    conditions = np.array([0, 4, 2])
    samples = release.engine.generate(noise_for(3), conditions, STEPS, 1.0)
    np.testing.assert_allclose(samples.reshape(3, -1), stand_in.centres()[conditions], atol=1e-5)


def test_guidance_goes_beyond_by_as_much_as_it_is(release, stand_in):
    # the unconditional flow ends at 0, so guidance 1.5 ends at 1.5 times the centre
    samples = release.engine.generate(noise_for(1), np.array([3]), STEPS, 1.5)
    np.testing.assert_allclose(samples.reshape(-1), 1.5 * stand_in.centres()[3], atol=1e-4)


def test_an_adapter_changes_its_own_engine_and_no_other(release, stand_in):
    adapted = release.engine.adapted(inputs_for(stand_in, stand_in.good_adapter()))
    new = np.array([7])
    np.testing.assert_allclose(
        adapted.generate(noise_for(1), new, STEPS, 1.0).reshape(-1), stand_in.centres()[7], atol=1e-5
    )
    np.testing.assert_allclose(release.engine.generate(noise_for(1), new, STEPS, 1.0), 0, atol=1e-5)
    np.testing.assert_allclose(adapted.adapted(None).generate(noise_for(1), new, STEPS, 1.0), 0, atol=1e-5)


def test_the_zero_adapter_is_the_base_to_the_bit(release, stand_in):
    zero = release.engine.adapted(inputs_for(stand_in, stand_in.zero_adapter()))
    arguments = noise_for(2), np.array([1, 2]), STEPS, 1.5
    assert (zero.generate(*arguments) == release.engine.generate(*arguments)).all()


def test_low_rank_factors_act_as_their_product(release, stand_in):
    rng = np.random.default_rng(3)
    b = rng.standard_normal((16, 2)).astype(np.float32)
    adapter = stand_in.zero_adapter() | {"tm.0.lora_B": b}
    sample = release.engine.adapted(inputs_for(stand_in, adapter)).generate(noise_for(1), np.array([1]), STEPS, 1.0)
    row = stand_in.centres()[1]
    expected = row + b @ (stand_in.start_factors()["tm.0.lora_A"] @ row)
    np.testing.assert_allclose(sample.reshape(-1), expected, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_engine_draws_the_same_as_a_plain_loop_around_the_session(release, guidance):
    noise = noise_for(1)
    plain = bare_loop(release.engine.session, noise, 2, 10, STEPS, guidance)
    np.testing.assert_allclose(release.engine.generate(noise, np.array([2]), STEPS, guidance), plain, atol=1e-5)


def test_many_samples_are_drawn_as_each_alone(release):
    noise, conditions = noise_for(150), np.arange(150) % 5
    together = release.engine.generate(noise, conditions, STEPS, 1.5)
    alone = release.engine.generate(noise[140:141], conditions[140:141], STEPS, 1.5)
    np.testing.assert_allclose(together[140:141], alone, atol=1e-6)


def test_two_threads_draw_what_one_would(release):
    expected = [release.engine.generate(noise_for(1, seed), np.array([seed % 5]), STEPS, 1.5) for seed in range(8)]
    found = [None] * 8

    def draw(seed):
        for _ in range(20):
            found[seed] = release.engine.generate(noise_for(1, seed), np.array([seed % 5]), STEPS, 1.5)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_embeddings_do_not_depend_on_the_adapter(release, stand_in):
    adapted = release.engine.adapted(inputs_for(stand_in, stand_in.good_adapter()))
    features = noise_for(3)
    assert (adapted.embed(features) == features.reshape(3, 16)).all()


def test_a_partial_or_unknown_adapter_is_refused_by_name(release, stand_in):
    inputs = inputs_for(stand_in, stand_in.good_adapter())
    with pytest.raises(Malformed, match="label_delta"):
        release.engine.adapted({name: value for name, value in inputs.items() if name != "label_delta"})
    with pytest.raises(Malformed, match="more"):
        release.engine.adapted(inputs | {"more": np.zeros(1, np.float32)})
    with pytest.raises(Malformed, match="label_delta"):
        release.engine.adapted(inputs | {"label_delta": np.zeros((3, 3), np.float32)})


def test_a_graph_that_is_no_student_is_refused(tmp_path, stand_in):
    (tmp_path / "judge.onnx").write_bytes(stand_in.judge_graph())
    with pytest.raises(Malformed, match="is no student"):
        OnnxEngine.load(tmp_path / "judge.onnx", 10)
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(Malformed, match="cannot be loaded"):
        open_session(tmp_path / "junk.onnx")
