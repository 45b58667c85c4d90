import numpy as np
import onnx
import pytest

from learning_core.models import onnx_export
from learning_core.models.blocks import block_shapes
from learning_core.models.flow_image import FlowImage, FlowImageConfig
from learning_core.models.integer_layers import integer_products
from learning_core.models.onnx_export import NotAlike, by_reference, export_int8_student, export_student
from learning_core.models.weights import seeded
from learning_core.samples import Batch

CONFIG = FlowImageConfig(width=16, depth=2, heads=2)


@pytest.fixture(scope="module")
def model():
    import torch

    model = seeded(lambda: FlowImage(CONFIG), 0).eval()
    torch.nn.init.normal_(model.out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def probe():
    rng = np.random.default_rng(0)
    return Batch(rng.uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32), np.array([0, 3, 7, 9]))


def test_every_layer_of_the_blocks_is_an_integer_product_and_adapters_stay_inputs(model, probe):
    whole = onnx.load_from_string(export_int8_student(model, 4, 8.0, probe))
    real = onnx.load_from_string(export_student(model, 4, 8.0, probe))
    assert integer_products(whole) == len(block_shapes(CONFIG.width, CONFIG.depth)) == 8
    assert integer_products(real) == 0
    assert {each.name: each.type for each in whole.graph.input} == {each.name: each.type for each in real.graph.input}
    assert [each.name for each in whole.graph.output] == [each.name for each in real.graph.output]


def test_integers_answer_nearly_as_floats_with_any_adapter(model, probe):
    whole, real = export_int8_student(model, 4, 8.0, probe), export_student(model, 4, 8.0, probe)
    rng = np.random.default_rng(1)
    feed = {"x": probe.features, "t": np.linspace(0, 1, 4, dtype=np.float32), "y": probe.conditions}
    adapter = {
        "blocks.0.fc1.lora_A": rng.standard_normal((4, 16)).astype(np.float32) / 4,
        "blocks.0.fc1.lora_B": rng.standard_normal((64, 4)).astype(np.float32) / 4,
    }
    plain = by_reference(real, feed)[0]
    for more in ({}, adapter):
        one, other = (by_reference(graph, feed | more)[0] for graph in (whole, real))
        assert 0 < np.linalg.norm(one - other) / np.linalg.norm(other) < 0.1
    assert np.linalg.norm(other - plain) > 0.01 * np.linalg.norm(plain)  # the adapter is no zero


def test_a_model_that_integers_turn_too_far_is_refused_in_a_sentence(model, probe, monkeypatch):
    monkeypatch.setattr(onnx_export, "INT8_COST", 1e-6)
    with pytest.raises(NotAlike, match="release it in float32"):
        export_int8_student(model, 4, 8.0, probe)


def test_a_graph_without_integers_is_noticed(model, probe, monkeypatch):
    monkeypatch.setattr(onnx_export, "int8_flow_image_graph", onnx_export.flow_image_graph)
    with pytest.raises(onnx_export.DewfallError, match="did not turn every layer"):
        export_int8_student(model, 4, 8.0, probe)
