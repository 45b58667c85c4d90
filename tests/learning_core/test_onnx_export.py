import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.errors import DewfallError, Malformed
from learning_core.federation.lora_algebra import serving_inputs
from learning_core.models.flow_image import EMBED_TIME, FlowImageConfig, flow_image_of, new_flow_image
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes, build_student, start_factors, write_adapter
from learning_core.models.onnx_export import by_reference, export_judge, export_student, reweight
from learning_core.models.weights import weights_of
from learning_core.params import zeros
from learning_core.samples import Batch

SMALL = FlowImageConfig(side=4, channels=2, patch=2, width=16, depth=2, heads=2, num_conditions=4)
KNOWN = (0, 1)
ALPHA, RANK = 4.0, 2


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def by_runtime(model, feed):
    return session(model).run(None, dict(feed))


def trained(seed: int = 0):
    model = new_flow_image(SMALL, seed)
    torch.nn.init.normal_(model.out.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def probe(rows: int = 5) -> Batch:
    images = np.random.default_rng(0).uniform(-1, 1, (rows, 2, 4, 4)).astype(np.float32)
    return Batch(images, np.arange(rows) % 4)


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export_student(trained(), RANK, ALPHA, probe(), by_runtime)


def feed(rows: int = 3, **more):
    times = np.linspace(0, 1, rows, dtype=np.float32)
    return {"x": probe(rows).features, "t": times, "y": np.arange(rows) % 5, **more}


def adapted(rank: int, seed: int = 0):
    """A student with a random adapter, and what the graph has to be fed to be it."""
    start = start_factors(SMALL, rank, seed)
    rng = np.random.default_rng(seed)
    shapes = adapter_shapes(SMALL, rank, KNOWN)
    adapter = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    student = build_student(SMALL, weights_of(trained()), start, ALPHA / RANK * rank, KNOWN)
    write_adapter(student, adapter)
    return student, serving_inputs(start, adapter, SMALL.num_conditions, KNOWN)


def in_torch(model, given_feed):
    with torch.no_grad():
        return model(*(torch.from_numpy(given_feed[name]) for name in ("x", "t", "y"))).numpy()


def test_the_inputs_and_outputs_are_the_agreed_ones(exported):
    opened = session(exported)
    assert [(i.name, i.shape) for i in opened.get_inputs()] == [
        ("x", ["batch", 2, 4, 4]),
        ("t", ["batch"]),
        ("y", ["batch"]),
    ]
    assert [(o.name, o.shape) for o in opened.get_outputs()] == [
        ("velocity", ["batch", 2, 4, 4]),
        ("embedding", ["batch", 16]),
    ]
    optional = {i.name: i.shape for i in opened.get_overridable_initializers()}
    assert optional.keys() == adapted(RANK)[1].keys()
    assert optional["blocks.0.qkv.lora_A"] == ["r", 16]
    assert optional["blocks.0.qkv.lora_B"] == [48, "r"]
    assert optional["label_delta"] == [5, 16]


@pytest.mark.parametrize("rows", [1, 5])
def test_the_runtime_answers_as_torch_does(exported, rows):
    velocity, _ = by_runtime(exported, feed(rows))
    np.testing.assert_allclose(velocity, in_torch(trained(), feed(rows)), atol=1e-5)


def test_the_embedding_of_the_graph_is_the_embedding_of_the_model(exported):
    time, null = np.full(3, EMBED_TIME, np.float32), np.full(3, SMALL.null_condition)
    _, embedding = by_runtime(exported, {"x": probe(3).features, "t": time, "y": null})
    with torch.no_grad():
        wanted = trained().embed(torch.from_numpy(probe(3).features)).numpy()
    np.testing.assert_allclose(embedding, wanted, atol=1e-5)


@settings(max_examples=6)
@given(rank=st.integers(1, 6), seed=st.integers(0, 100))
def test_a_fed_adapter_of_any_rank_answers_as_the_adapted_student_does(exported, rank, seed):
    student, inputs = adapted(rank, seed)
    np.testing.assert_allclose(by_runtime(exported, feed(5, **inputs))[0], in_torch(student, feed(5)), atol=1e-4)


def test_an_adapter_fed_once_leaves_no_trace(exported):
    opened = session(exported)
    before = opened.run(None, feed())[0]
    changed = opened.run(None, feed(**adapted(RANK)[1]))[0]
    assert np.abs(changed - before).max() > 0.01
    np.testing.assert_array_equal(opened.run(None, feed())[0], before)


def test_the_zero_adapter_is_the_base(exported):
    zero = zeros(adapter_shapes(SMALL, RANK, KNOWN))
    inputs = serving_inputs(start_factors(SMALL, RANK, 0), zero, SMALL.num_conditions, KNOWN)
    np.testing.assert_allclose(by_runtime(exported, feed(**inputs))[0], by_runtime(exported, feed())[0], atol=1e-6)


def test_the_evaluator_of_the_standard_agrees_and_needs_no_runtime(exported):
    assert export_student(trained(), RANK, ALPHA, probe()) == exported
    np.testing.assert_allclose(by_reference(exported, feed())[0], by_runtime(exported, feed())[0], atol=1e-5)


def test_an_export_that_answers_otherwise_is_refused():
    def lying(model, given_feed):
        velocity, embedding = by_runtime(model, given_feed)
        return [velocity + 1e-3, embedding]

    with pytest.raises(DewfallError, match="do not release"):
        export_student(trained(), RANK, ALPHA, probe(), lying)


def test_an_export_that_answers_with_no_numbers_is_refused():
    model = trained()
    torch.nn.init.constant_(model.out.bias, float("nan"))
    with pytest.raises(DewfallError, match="do not release"):
        export_student(model, RANK, ALPHA, probe(), by_runtime)


def test_new_weights_in_an_old_graph_are_a_new_export(exported):
    other = trained(seed=1)
    assert reweight(exported, weights_of(other)) == export_student(other, RANK, ALPHA, probe(), by_runtime)
    assert reweight(exported, weights_of(trained())) == exported


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "adapter"])
def test_weights_of_another_graph_are_refused(exported, damage):
    weights = weights_of(trained())
    if damage == "missing":
        del weights["ada.bias"]
    elif damage == "extra":
        weights["more"] = weights["ada.bias"]
    elif damage == "shape":
        weights["ada.bias"] = weights["ada.bias"][:-1]
    else:
        weights["ada.lora_A"] = np.zeros((1, 16), np.float32)
    with pytest.raises(Malformed, match="another graph"):
        reweight(exported, weights)


def test_the_judge_answers_as_torch_does():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Judge(2, 4, 3).eval()
    judge.feature_spread.fill_(2.0)
    data = export_judge(judge, probe(), by_runtime)
    logits, features = by_runtime(data, {"x": probe(7).features})
    with torch.no_grad():
        wanted = judge(torch.from_numpy(probe(7).features))
    np.testing.assert_allclose(logits, wanted[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(features, wanted[1].numpy(), atol=1e-5)
    assert export_judge(judge, probe()) == data


def test_weights_survive_the_way_through_the_graph(exported):
    model = flow_image_of(SMALL, weights_of(trained()))
    np.testing.assert_allclose(by_runtime(exported, feed())[0], in_torch(model, feed()), atol=1e-5)
