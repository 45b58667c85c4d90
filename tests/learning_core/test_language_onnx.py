import gc

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.errors import DewfallError, Malformed
from learning_core.models import peft_door
from learning_core.models.blocks import block_shapes
from learning_core.models.integer_layers import LARGEST, integer_products, quantised
from learning_core.models.language import LanguageConfig, new_language
from learning_core.models.language_lora import build_student, start_factors, write_adapter
from learning_core.models.language_onnx import export_int8, export_language, probe_ids
from learning_core.models.onnx_export import adapter_inputs, by_reference, reweight
from learning_core.models.peft_door import Plan
from learning_core.models.weights import weights_of

SMALL = LanguageConfig(width=16, depth=2, heads=2, context=8)
BLOCK_LAYERS = 2 * 4
ALPHA, RANK = 4.0, 2
PROBE = b"To be, or not to be, that is the question"


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def by_runtime(model, feed):
    return session(model).run(None, dict(feed))


def trained(seed: int = 0):
    model = new_language(SMALL, seed).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))
    return model


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export_language(trained(), RANK, ALPHA, PROBE, by_runtime)


@pytest.fixture(scope="module")
def integers() -> bytes:
    return export_int8(trained(), RANK, ALPHA, PROBE, by_runtime)


def ids(rows: int = 3, length: int = 8):
    return np.random.default_rng(0).integers(0, 256, (rows, length))


def adapted(rank: int, seed: int = 0):
    """A student with a random adapter; its scale is the graph's, whatever its rank."""
    student = build_student(SMALL, weights_of(trained()), start_factors(SMALL, rank, seed), ALPHA / RANK * rank)
    rng = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in adapter_inputs(student).items() if name.endswith("lora_B")}
    write_adapter(student, {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()})
    return student.eval()


def in_torch(model, given_ids):
    with torch.no_grad():
        return model(torch.from_numpy(given_ids)).numpy()


def test_the_inputs_and_outputs_are_the_agreed_ones(exported):
    opened = session(exported)
    assert [(i.name, i.shape) for i in opened.get_inputs()] == [("ids", ["batch", "length"])]
    outputs = [(o.name, o.shape) for o in opened.get_outputs()]
    assert outputs == [("logits", ["batch", "length", 256]), ("embedding", ["batch", 16])]
    optional = {i.name: i.shape for i in opened.get_overridable_initializers()}
    assert optional.keys() == adapter_inputs(adapted(RANK)).keys()
    assert optional["blocks.0.qkv.lora_A"] == ["r", 16]
    assert optional["blocks.0.qkv.lora_B"] == [48, "r"]


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 8), (5, 3)])
def test_the_runtime_answers_as_torch_does(exported, rows, length):
    logits, embedding = by_runtime(exported, {"ids": ids(rows, length)})
    np.testing.assert_allclose(logits, in_torch(trained(), ids(rows, length)), atol=1e-4)
    with torch.no_grad():
        wanted = trained().embed(torch.from_numpy(ids(rows, length))).numpy()
    np.testing.assert_allclose(embedding, wanted, atol=1e-4)


@settings(max_examples=6)
@given(rank=st.integers(1, 6), seed=st.integers(0, 100))
def test_a_fed_adapter_of_any_rank_answers_as_the_adapted_model_does(exported, rank, seed):
    student = adapted(rank, seed)
    given_feed = {"ids": ids(), **adapter_inputs(student)}
    np.testing.assert_allclose(by_runtime(exported, given_feed)[0], in_torch(student, ids()), atol=1e-4)


def test_two_adapters_fed_as_one_change_every_layer_by_both(exported):
    shared, personal = adapted(2, seed=1), adapted(3, seed=2)
    both = peft_door.composed([(adapter_inputs(part), ALPHA / RANK) for part in (shared, personal)], ALPHA / RANK)
    start = {name: value for name, value in both.items() if name.endswith("lora_A")}
    sum_of_both = build_student(SMALL, weights_of(trained()), start, ALPHA / RANK * 5)
    write_adapter(sum_of_both, {name: value for name, value in both.items() if name.endswith("lora_B")})
    layer, one, other = (
        model.get_submodule("blocks.1.fc1").merged() - trained().get_parameter("blocks.1.fc1.weight")
        for model in (sum_of_both, shared, personal)
    )
    torch.testing.assert_close(layer, one + other, atol=1e-5, rtol=1e-5)
    found = by_runtime(exported, {"ids": ids(), **both})[0]
    np.testing.assert_allclose(found, in_torch(sum_of_both, ids()), atol=1e-4)


def test_two_adapters_in_the_graph_are_both_in_peft(exported):
    layers = list(block_shapes(SMALL.width, SMALL.depth))  # peft cannot adapt a head that is the table as well
    plans = {"shared": Plan(layers, rank=2, scale=1.0), "personal": Plan(layers, rank=3, scale=0.5)}
    theirs = peft_door.adapted(trained(), plans)
    parts = {"shared": adapter_inputs(adapted(2, seed=1)), "personal": adapter_inputs(adapted(3, seed=2))}
    for name, part in parts.items():
        peft_door.write_adapter(theirs, name, {key: part[key] for key in theirs.leaves[name]})
        part["head.lora_B"][:] = 0
    fed = peft_door.composed([(part, plans[name].scale) for name, part in parts.items()], ALPHA / RANK)
    found = by_runtime(exported, {"ids": ids(), **fed})[0]
    np.testing.assert_allclose(found, in_torch(theirs.module.eval(), ids()), atol=1e-4)


def test_an_adapter_fed_once_leaves_no_trace(exported):
    opened = session(exported)
    before = opened.run(None, {"ids": ids()})[0]
    changed = opened.run(None, {"ids": ids(), **adapter_inputs(adapted(RANK))})[0]
    assert np.abs(changed - before).max() > 0.01
    np.testing.assert_array_equal(opened.run(None, {"ids": ids()})[0], before)


def test_the_evaluator_of_the_standard_agrees_and_needs_no_runtime(exported, integers):
    assert export_language(trained(), RANK, ALPHA, PROBE) == exported
    assert export_int8(trained(), RANK, ALPHA, PROBE) == integers


def test_new_weights_in_an_old_graph_are_a_new_export(exported):
    other = trained(seed=1)
    assert reweight(exported, weights_of(other)) == export_language(other, RANK, ALPHA, PROBE, by_runtime)
    with pytest.raises(Malformed, match="another graph"):
        reweight(exported, {**weights_of(other), "more": np.zeros(1, np.float32)})


@pytest.mark.parametrize("export", [export_language, export_int8])
def test_an_export_that_answers_otherwise_is_refused(export):
    def lying(model, given_feed):
        logits, embedding = by_runtime(model, given_feed)
        return [logits[..., ::-1].copy(), embedding]

    with pytest.raises(DewfallError, match="release"):
        export(trained(), RANK, ALPHA, PROBE, lying)


def test_a_probe_is_cut_into_whole_contexts():
    assert probe_ids(b"abcdefgh" * 6, SMALL).tolist() == [list(b"abcdefgh")] * 4
    with pytest.raises(ValueError, match="at least 8"):
        probe_ids(b"short", SMALL)


def test_every_layer_of_the_base_is_an_integer_product_and_no_adapter_is(integers):
    graph = onnx.load_from_string(integers)
    assert integer_products(graph) == BLOCK_LAYERS
    for node in graph.graph.node:
        if any(".lora_" in name for name in node.input):
            assert node.op_type == "Gemm"
    kept = {number.name: number.data_type for number in graph.graph.initializer if ".lora_" in number.name}
    assert len(kept) == 2 * (BLOCK_LAYERS + 1)  # and the head
    assert set(kept.values()) == {onnx.TensorProto.FLOAT}
    assert integer_products(onnx.load_from_string(export_language(trained(), RANK, ALPHA, PROBE, by_runtime))) == 0


def test_whole_numbers_and_their_scales_are_the_weight():
    whole, scales = quantised(np.array([[6.3, -3.15], [0, 0]], np.float32))
    np.testing.assert_array_equal(whole, [[63, -32], [0, 0]])  # -31.5 goes to the even neighbour
    np.testing.assert_allclose(scales, [0.1, 1 / 63], rtol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_no_weight_moves_by_more_than_half_a_step(seed):
    weight = np.random.default_rng(seed).normal(0, 1, (3, 5)).astype(np.float32)
    whole, scales = quantised(weight)
    assert np.abs(whole.astype(int)).max() <= LARGEST
    assert (np.abs(whole * scales[:, None] - weight) <= 0.5001 * scales[:, None]).all()


def test_integers_answer_nearly_as_the_model_and_follow_its_adapter(integers):
    student = adapted(RANK)
    base, changed = in_torch(trained(), ids()), in_torch(student, ids())
    found = by_runtime(integers, {"ids": ids()})[0]
    moved = by_runtime(integers, {"ids": ids(), **adapter_inputs(student)})[0]
    assert np.abs(found - base).mean() < 0.1 * np.abs(base).mean()
    assert np.abs(moved - changed).mean() < 0.2 * np.abs(changed - base).mean()
    exact = by_reference(integers, {"ids": ids(), **adapter_inputs(student)})[0]
    np.testing.assert_allclose(moved, exact, atol=1e-3)


def adapter_file(path, inputs):
    written = onnxruntime.AdapterFormat()
    written.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in inputs.items()})
    written.export_adapter(str(path))
    return path


def under_adapter(opened, path):
    options, adapter = onnxruntime.RunOptions(), onnxruntime.LoraAdapter()
    adapter.Load(str(path))
    options.add_active_adapter(adapter)
    return options, adapter  # the options point at the adapter but do not own it: the two are kept together


def test_the_runtimes_own_adapter_files_fit_the_graph(exported, tmp_path):
    student, opened = adapted(3, seed=5), session(exported)
    path = adapter_file(tmp_path / "a.onnx_adapter", adapter_inputs(student))
    options, kept = under_adapter(opened, path)
    gc.collect()
    np.testing.assert_allclose(opened.run(None, {"ids": ids()}, options)[0], in_torch(student, ids()), atol=1e-4)
    assert kept is not None


def test_the_runtime_serves_partial_and_damaged_adapters_without_a_word(exported, tmp_path):
    # Why names are compared and files are signed before anything gets this far.
    opened, inputs = session(exported), adapter_inputs(adapted(RANK))
    whole = opened.run(None, {"ids": ids(), **inputs})[0]
    partial = {name: value for name, value in inputs.items() if name.startswith("blocks.0")}
    path = adapter_file(tmp_path / "partial.onnx_adapter", partial)
    options, _kept = under_adapter(opened, path)
    assert np.abs(opened.run(None, {"ids": ids()}, options)[0] - whole).max() > 0.01
    path = adapter_file(tmp_path / "damaged.onnx_adapter", inputs)
    data, tensor = bytearray(path.read_bytes()), inputs["blocks.1.fc2.lora_B"].tobytes()
    data[data.index(tensor) + 3] ^= 0x40
    path.write_bytes(data)
    options, _kept = under_adapter(opened, path)
    assert not np.allclose(opened.run(None, {"ids": ids()}, options)[0], whole, atol=1e-3)


def test_the_runtime_refuses_names_the_graph_has_not(exported, tmp_path):
    opened, inputs = session(exported), adapter_inputs(adapted(RANK))
    wrong = {f"base_model.model.{name}": value for name, value in inputs.items()}
    options, _kept = under_adapter(opened, adapter_file(tmp_path / "wrong.onnx_adapter", wrong))
    with pytest.raises(Exception, match=r"base_model\.model"):
        opened.run(None, {"ids": ids()}, options)


def test_a_graph_without_positions_left_to_learn_takes_any_length_up_to_its_context(exported):
    for length in range(1, SMALL.context + 1):
        assert by_runtime(exported, {"ids": ids(1, length)})[0].shape == (1, length, 256)
