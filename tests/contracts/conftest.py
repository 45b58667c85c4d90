"""What the suites of the device's ports share: releases, students, and what stands in for parts in other tests."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "edge_agent"))
from opened_anew import OpenedAnew
from stand_in_release import CONDITIONS, KNOWN, good_adapter, make_flow_release, make_release, manifest_digest
from stand_in_release import start_factors as stand_in_factors

from edge_agent.drivers.onnx_engine import OnnxEngine, OnnxJudge, load_release
from edge_agent.drivers.sqlite_store import Database
from learning_core.federation.lora_algebra import serving_inputs
from learning_core.models.flow_image import FlowImage, FlowImageConfig
from learning_core.models.lora import adapter_shapes, start_factors
from learning_core.models.onnx_export import export_int8_student
from learning_core.models.weights import load_weights
from learning_core.samples import Batch
from protos.codec import decode_params


@pytest.fixture(scope="session")
def stand_in_release(tmp_path_factory):
    """A loaded release whose numbers a person can check; not to be changed."""
    folder = tmp_path_factory.mktemp("stand_in") / "1"
    return load_release(folder, make_release(folder), manifest_digest(folder))


@pytest.fixture(scope="session")
def stand_in_student(stand_in_release):
    """`engine`, an adapter's `inputs` that fit it, and its `judge`."""
    inputs = serving_inputs(stand_in_factors(), good_adapter(), CONDITIONS, KNOWN)
    return SimpleNamespace(engine=stand_in_release.engine, inputs=inputs, judge=stand_in_release.judge)


@pytest.fixture(scope="session")
def flow_student(tmp_path_factory):
    """The same of a real flow model of the real size, untrained, with its `integers` beside it."""
    folder = tmp_path_factory.mktemp("flow") / "1"
    make_flow_release(folder)
    config, rng = FlowImageConfig(), np.random.default_rng(0)
    weights = decode_params((folder / "student.safetensors").read_bytes())
    model = FlowImage(config).eval()
    load_weights(model, weights)
    probe = Batch(rng.uniform(-1, 1, (8, 1, 8, 8)).astype(np.float32), np.arange(8))
    (folder / "int8.onnx").write_bytes(export_int8_student(model, 8, 16.0, probe))
    shapes = adapter_shapes(config, 8, KNOWN)
    adapter = {name: rng.standard_normal(shape, np.float32) / 10 for name, shape in shapes.items()}
    return SimpleNamespace(
        engine=OnnxEngine.load(folder / "student.onnx", CONDITIONS),
        integers=OnnxEngine.load(folder / "int8.onnx", CONDITIONS),
        judge=OnnxJudge(folder / "judge.onnx"),
        inputs=serving_inputs(start_factors(config, 8, seed=1), adapter, CONDITIONS, KNOWN),
        graph=(folder / "student.onnx").read_bytes(),
        weights=weights,
    )


@pytest.fixture(params=["open", "opened anew"])
def on_disk(request, tmp_path):
    """Makes a driver of the device's database: one that stays open, or is opened anew at every call."""
    if request.param == "opened anew":
        yield lambda driver: OpenedAnew(tmp_path / "agent.db", driver)
        return
    database = Database(tmp_path / "agent.db")
    yield lambda driver: driver(database)
    database.close()
