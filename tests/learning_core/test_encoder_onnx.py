import gc
import importlib.util

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoder import CONFIG, TEXTS, tiny_files
from torch import nn

from learning_core.errors import ConfigError, DewfallError, Malformed
from learning_core.models import encoder_onnx, peft_door
from learning_core.models.encoder import Encoder, batch_of, embed, encoder_of, mean_pool, word_and_meaning
from learning_core.models.encoder_graph import Build, build_of, linear_layers
from learning_core.models.encoder_onnx import export_encoder, export_int8_encoder
from learning_core.models.integer_layers import integer_products
from learning_core.models.peft_door import Plan
from simulations.bench.continual.data_clinc import PACKAGE, minilm

SCALE = 2.0
LAYERS = [f"encoder.layer.{block}.{leaf}" for block in range(4) for leaf in ("attention.self.query", "output.dense")]
PLAN = Plan(LAYERS, rank=2, scale=SCALE)


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def by_runtime(model, feed):
    return session(model).run(None, dict(feed))


def spread() -> Encoder:
    """A tiny encoder whose weights and biases are all far from what they are set to at first."""
    encoder = encoder_of(tiny_files())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in encoder.module.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return spread()


@pytest.fixture(scope="module")
def exported(encoder) -> bytes:
    return export_encoder(encoder, PLAN, TEXTS, by_runtime)


@pytest.fixture(scope="module")
def integers(encoder) -> bytes:
    return export_int8_encoder(encoder, PLAN, TEXTS, by_runtime)


def feed_of(encoder: Encoder, texts=TEXTS) -> dict[str, np.ndarray]:
    ids, mask = batch_of(encoder.tokenize(texts), encoder.padding)
    return {"ids": ids.numpy(), "mask": mask.numpy()}


def adapters(encoder: Encoder, ranks: dict[str, int], seed: int = 0) -> tuple[peft_door.Adapted, dict[str, dict]]:
    """A twin with adapters that change what it says, and their factors."""
    twin = spread()
    both = peft_door.adapted(twin.module, {name: Plan(LAYERS, rank, SCALE) for name, rank in ranks.items()})
    rng, parts = np.random.default_rng(seed), {}
    for name in ranks:
        start = peft_door.read_adapter(both, name)
        parts[name] = {key: rng.normal(0, 0.3, value.shape).astype(np.float32) for key, value in start.items()}
        peft_door.write_adapter(both, name, parts[name])
    return both, parts


def in_torch(module: nn.Module, encoder: Encoder, texts=TEXTS) -> list[np.ndarray]:
    ids, mask = batch_of(encoder.tokenize(texts), encoder.padding)
    with torch.no_grad():
        states = module(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return [pool(states, mask).numpy() for pool in (mean_pool, word_and_meaning)]


def test_the_inputs_and_outputs_are_the_agreed_ones(exported):
    opened = session(exported)
    assert [(i.name, i.shape) for i in opened.get_inputs()] == [
        ("ids", ["batch", "length"]),
        ("mask", ["batch", "length"]),
    ]
    outputs = [(o.name, o.shape) for o in opened.get_outputs()]
    assert outputs == [("embedding", ["batch", 8]), ("word_and_meaning", ["batch", 32])]
    optional = {i.name: i.shape for i in opened.get_overridable_initializers()}
    assert optional.keys() == peft_door.factor_shapes(spread().module, PLAN).keys()
    assert optional["encoder.layer.0.output.dense.lora_A"] == ["r", 16]
    assert optional["encoder.layer.0.output.dense.lora_B"] == [8, "r"]


@settings(max_examples=10)
@given(texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5))
def test_any_batch_of_any_length_is_pooled_as_in_torch(encoder, exported, texts):
    found = by_runtime(exported, feed_of(encoder, texts))
    for one, pooling in zip(found, (mean_pool, word_and_meaning), strict=True):
        np.testing.assert_allclose(one, embed(encoder, texts, pooling), atol=1e-4)


def test_padding_changes_nothing(encoder, exported):
    feed = feed_of(encoder)
    longer = {name: np.pad(value, ((0, 0), (0, 4))) for name, value in feed.items()}
    longer["ids"][:, -4:] = 7  # whatever stands where nothing is
    for one, other in zip(by_runtime(exported, feed), by_runtime(exported, longer), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@settings(max_examples=5)
@given(rank=st.integers(1, 6), seed=st.integers(0, 100))
def test_a_fed_adapter_of_any_rank_answers_as_peft_does(encoder, exported, rank, seed):
    both, parts = adapters(encoder, {"shared": rank}, seed)
    found = by_runtime(exported, feed_of(encoder) | parts["shared"])
    for one, other in zip(found, in_torch(both.module, encoder), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_shared_and_personal_fed_as_one_answer_as_both_in_peft(encoder, exported):
    both, parts = adapters(encoder, {"shared": 2, "personal": 3})
    fed = peft_door.composed([(parts[name], SCALE) for name in ("shared", "personal")], SCALE)
    found = by_runtime(exported, feed_of(encoder) | fed)
    for one, other in zip(found, in_torch(both.module, encoder), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_adapter_fed_once_leaves_no_trace(encoder, exported):
    opened, feed = session(exported), feed_of(encoder)
    before = opened.run(None, feed)[0]
    changed = opened.run(None, feed | adapters(encoder, {"shared": 2})[1]["shared"])[0]
    assert np.abs(changed - before).max() > 0.01
    np.testing.assert_array_equal(opened.run(None, feed)[0], before)


def test_the_evaluator_of_the_standard_agrees_and_needs_no_runtime(encoder, exported, integers):
    assert export_encoder(encoder, PLAN, TEXTS) == exported
    assert export_int8_encoder(encoder, PLAN, TEXTS) == integers


@pytest.mark.parametrize("export", [export_encoder, export_int8_encoder])
def test_an_export_that_answers_otherwise_is_refused(encoder, export):
    def lying(model, feed):
        return [found[:, ::-1].copy() for found in by_runtime(model, feed)]

    with pytest.raises(DewfallError, match="release"):
        export(encoder, PLAN, TEXTS, lying)


def test_every_layer_of_the_base_is_an_integer_product_and_no_adapter_is(encoder, integers, exported):
    graph = onnx.load_from_string(integers)
    assert integer_products(graph) == len(linear_layers(build_of(encoder.module))) == 24
    assert integer_products(onnx.load_from_string(exported)) == 0
    touching = [node for node in graph.graph.node if any(".lora_" in name for name in node.input)]
    assert {node.op_type for node in touching} == {"Gemm"}
    assert len(touching) == 2 * len(LAYERS)
    kinds = {number.name: number.data_type for number in graph.graph.initializer}
    assert kinds["embeddings.word_embeddings.weight_int8"] == onnx.TensorProto.INT8
    assert {kind for name, kind in kinds.items() if ".lora_" in name} == {onnx.TensorProto.FLOAT}


def test_an_export_in_which_nothing_became_an_integer_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(encoder_onnx, "int8_encoder_graph", encoder_onnx.encoder_graph)
    with pytest.raises(DewfallError, match="every layer"):
        export_int8_encoder(encoder, PLAN, TEXTS, by_runtime)


def test_integers_answer_nearly_as_the_model_and_follow_its_adapter(encoder, integers):
    both, parts = adapters(encoder, {"shared": 2})
    base, changed = (in_torch(module, encoder)[0] for module in (encoder.module, both.module))
    found = by_runtime(integers, feed_of(encoder))[0]
    moved = by_runtime(integers, feed_of(encoder) | parts["shared"])[0]
    assert (found * base).sum(axis=1).min() > 0.98
    assert (moved * changed).sum(axis=1).min() > 0.98
    assert (moved * base).sum(axis=1).min() < 0.98


def under_adapter(path, inputs):
    """The runtime's own adapter file, loaded; the options point at the adapter but do not own it: keep both."""
    written = onnxruntime.AdapterFormat()
    written.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in inputs.items()})
    written.export_adapter(str(path))
    options, adapter = onnxruntime.RunOptions(), onnxruntime.LoraAdapter()
    adapter.Load(str(path))
    options.add_active_adapter(adapter)
    return options, adapter


def test_the_runtimes_adapter_files_fit_and_partial_ones_pass_without_a_word(encoder, exported, tmp_path):
    both, parts = adapters(encoder, {"shared": 3})
    opened, wanted = session(exported), in_torch(both.module, encoder)[0]
    options, kept = under_adapter(tmp_path / "whole", parts["shared"])
    gc.collect()
    np.testing.assert_allclose(opened.run(None, feed_of(encoder), options)[0], wanted, atol=1e-4)
    assert kept is not None
    partial = {name: value for name, value in parts["shared"].items() if ".layer.0." in name}
    options, kept = under_adapter(tmp_path / "partial", partial)
    assert np.abs(opened.run(None, feed_of(encoder), options)[0] - wanted).max() > 0.01
    with pytest.raises(Malformed):  # our own door is not so forgiving
        peft_door.write_adapter(both, "shared", partial)


def test_names_the_graph_has_not_are_refused(encoder, exported):
    wrong = {f"base_model.{name}": value for name, value in adapters(encoder, {"s": 2})[1]["s"].items()}
    with pytest.raises(Exception, match="base_model"):
        by_runtime(exported, feed_of(encoder) | wrong)


def test_an_encoder_that_still_carries_adapters_is_refused():
    carrying = spread()
    peft_door.adapted(carrying.module, {"shared": PLAN})
    with pytest.raises(ConfigError, match="without its adapters"):
        export_encoder(carrying, PLAN, TEXTS, by_runtime)


def test_what_the_graph_does_not_compute_can_carry_no_adapter(encoder):
    with pytest.raises(ConfigError, match="takes no adapter"):
        export_encoder(encoder, Plan(["pooler.dense"]), TEXTS, by_runtime)
    with pytest.raises(Malformed, match="no linear layer"):
        export_encoder(encoder, Plan(["encoder.layer.9.output.dense"]), TEXTS, by_runtime)


def test_only_encoders_of_berts_build_become_graphs(encoder):
    with pytest.raises(ConfigError, match="no model_type"):
        build_of(nn.Linear(2, 2))
    assert build_of(encoder.module) == Build(8, 4, 2, CONFIG["max_position_embeddings"], 1e-12, "gelu")


def test_an_export_without_texts_to_compare_on_is_refused(encoder):
    with pytest.raises(ValueError, match="there are none"):
        export_encoder(encoder, PLAN, [], by_runtime)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="MiniLM is not installed")
def test_minilm_is_the_same_in_the_graph_and_nearly_so_in_integers():
    encoder, texts = minilm(), ["wake me at seven", "what is the balance of my account", "play some jazz"]
    plan = Plan([path for path in linear_layers(build_of(encoder.module)) if path.endswith("query")])
    found, feed = embed(encoder, texts), feed_of(encoder, texts)
    np.testing.assert_allclose(by_runtime(export_encoder(encoder, plan, texts, by_runtime), feed)[0], found, atol=1e-5)
    nearly = export_int8_encoder(encoder, plan, texts, by_runtime)
    assert len(nearly) < 24_000_000
    assert (by_runtime(nearly, feed)[0] * found).sum(axis=1).min() > 0.98
