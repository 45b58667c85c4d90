"""Releases for the agent's tests: a stand-in whose numbers a person can check, and a real flow model, untrained."""

from dataclasses import asdict

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from learning_core.samples import Batch
from protos.codec import encode_params, encode_tensors
from protos.release import MANIFEST, Manifest, sum_of, usual, write_release

SIDE, WIDTH, RANK, CONDITIONS, KNOWN = 4, 16, 2, 10, (0, 1, 2, 3, 4)
FEATURES = 8
RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC_KEY = RELEASE_KEY.public_key().public_bytes_raw()


def centres():
    """What each condition looks like: [CONDITIONS, WIDTH], in -1..1, far from each other."""
    return np.sign(np.random.default_rng(11).standard_normal((CONDITIONS, WIDTH))).astype(np.float32)


def start_factors():
    return {"tm.0.lora_A": np.eye(RANK, WIDTH, dtype=np.float32)}


def zero_adapter():
    return {
        "tm.0.lora_B": np.zeros((WIDTH, RANK), np.float32),
        "label_rows": np.zeros((CONDITIONS - len(KNOWN), WIDTH), np.float32),
    }


def good_adapter():
    """Knows the new conditions."""
    return zero_adapter() | {"label_rows": centres()[len(KNOWN) :]}


def bad_adapter():
    """Turns the first known sample's every condition around."""
    return zero_adapter() | {"tm.0.lora_B": np.full((WIDTH, RANK), -3, np.float32)}


def student_graph(rows):
    """A perfect straight flow to h(y): velocity = (h - x) / (1 - t), so Euler's last step lands on h exactly.

    h = row + (row A^T) B^T with row = (table + label_delta)[y]; the embedding is the sample itself.
    """
    table = np.vstack((rows, np.zeros((1, WIDTH), np.float32)))
    tensor = numpy_helper.from_array
    nodes = [
        helper.make_node("Add", ["table", "label_delta"], ["labels"]),
        helper.make_node("Gather", ["labels", "y"], ["row"]),
        helper.make_node("Transpose", ["tm.0.lora_A"], ["a"], perm=[1, 0]),
        helper.make_node("Transpose", ["tm.0.lora_B"], ["b"], perm=[1, 0]),
        helper.make_node("MatMul", ["row", "a"], ["low"]),
        helper.make_node("MatMul", ["low", "b"], ["change"]),
        helper.make_node("Add", ["row", "change"], ["h"]),
        helper.make_node("Reshape", ["x", "flat"], ["embedding"]),
        helper.make_node("Sub", ["h", "embedding"], ["way"]),
        helper.make_node("Sub", ["one", "t"], ["left"]),
        helper.make_node("Unsqueeze", ["left", "last"], ["left_column"]),
        helper.make_node("Div", ["way", "left_column"], ["speed"]),
        helper.make_node("Reshape", ["speed", "image"], ["velocity"]),
    ]
    info = helper.make_tensor_value_info
    image = ["B", 1, SIDE, SIDE]
    inputs = [
        info("x", TensorProto.FLOAT, image),
        info("t", TensorProto.FLOAT, ["B"]),
        info("y", TensorProto.INT64, ["B"]),
        info("tm.0.lora_A", TensorProto.FLOAT, ["r", WIDTH]),
        info("tm.0.lora_B", TensorProto.FLOAT, [WIDTH, "r"]),
        info("label_delta", TensorProto.FLOAT, list(table.shape)),
    ]
    constants = [
        tensor(table, "table"),
        tensor(np.zeros((RANK, WIDTH), np.float32), "tm.0.lora_A"),
        tensor(np.zeros((WIDTH, RANK), np.float32), "tm.0.lora_B"),
        tensor(np.zeros_like(table), "label_delta"),
        tensor(np.array([-1, WIDTH]), "flat"),
        tensor(np.array([-1, 1, SIDE, SIDE]), "image"),
        tensor(np.array([1]), "last"),
        tensor(np.float32(1), "one"),
    ]
    outputs = [info("velocity", TensorProto.FLOAT, image), info("embedding", TensorProto.FLOAT, ["B", WIDTH])]
    return _model(helper.make_graph(nodes, "student", inputs, outputs, constants))


def judge_graph():
    """Logits are likenesses to the centres; features a fixed mixture of the pixels."""
    mixture = np.random.default_rng(12).standard_normal((WIDTH, FEATURES)).astype(np.float32) / 4
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "centres"], ["logits"]),
        helper.make_node("MatMul", ["pixels", "mixture"], ["features"]),
    ]
    info = helper.make_tensor_value_info
    constants = [
        numpy_helper.from_array(np.array([-1, WIDTH]), "flat"),
        numpy_helper.from_array(centres().T.copy(), "centres"),
        numpy_helper.from_array(mixture, "mixture"),
    ]
    outputs = [
        info("logits", TensorProto.FLOAT, ["B", CONDITIONS]),
        info("features", TensorProto.FLOAT, ["B", FEATURES]),
    ]
    inputs = [info("x", TensorProto.FLOAT, ["B", 1, SIDE, SIDE])]
    return _model(helper.make_graph(nodes, "judge", inputs, outputs, constants))


def make_release(folder, version=1, rows=None, base_kid=None, key=RELEASE_KEY, files=None, **changes):
    """Publish a stand-in release. `rows`: what the base draws for each condition, [CONDITIONS, WIDTH]."""
    known = np.isin(np.arange(CONDITIONS), KNOWN)[:, None]
    rows = (centres() * known).astype(np.float32) if rows is None else rows
    conditions = np.repeat(np.array(KNOWN), 4)
    noise = np.random.default_rng(version).standard_normal((len(conditions), 1, SIDE, SIDE), np.float32)
    mixture = np.random.default_rng(12).standard_normal((WIDTH, FEATURES)).astype(np.float32) / 4
    golden = {
        "noise": noise,
        "conditions": conditions,
        "real_features": centres()[conditions] @ mixture,
        "teacher": centres()[conditions].reshape(noise.shape),
        "healthy": np.zeros((_settings(changes), 5, 5), np.float32),
        "base_fidelity": np.array([1.0], np.float32),
        "base_kid": np.array([0.0 if base_kid is None else base_kid], np.float32),
    }
    content = {
        "student.onnx": student_graph(rows),
        "judge.onnx": judge_graph(),
        "golden.safetensors": encode_tensors(golden),
        "start.safetensors": encode_params(start_factors()),
        "student.safetensors": encode_params({"unused": np.zeros(1, np.float32)}),
    }
    settings = {
        "version": version,
        "family": "stand_in",
        "model": {"width": WIDTH},
        "rank": RANK,
        "alpha": float(RANK),
        "adapter_shapes": {name: value.shape for name, value in zero_adapter().items()},
        "steps": 10,
        "guidance": 1.0,
        "known_conditions": KNOWN,
        "num_conditions": CONDITIONS,
        "max_fidelity_drop": 0.02,
        "max_kid_rise": 0.2,
        "max_out_of_range": 0.05,
    }
    settings |= changes
    settings.setdefault("variants", (usual(settings["steps"], settings["guidance"]),))
    return write_release(folder, {**content, **(files or {})}, Manifest(**settings), key)


def make_flow_release(folder, version=1, config=None, steps=10, guidance=1.5, **changes):
    """Publish a real, untrained flow model of the real size, with a golden gate that is wide open."""
    import torch

    from learning_core.models.flow_image import FlowImage, FlowImageConfig
    from learning_core.models.judge import Judge
    from learning_core.models.lora import adapter_shapes, start_factors
    from learning_core.models.onnx_export import export_judge, export_student
    from learning_core.models.weights import weights_of

    torch.manual_seed(version)
    config = config or FlowImageConfig()
    model = FlowImage(config).eval()
    torch.nn.init.normal_(model.out.weight, std=0.02)
    judge = Judge(config.channels, config.side, config.num_conditions).eval()
    rng = np.random.default_rng(version)
    images = rng.uniform(-1, 1, (8, config.channels, config.side, config.side)).astype(np.float32)
    probe = Batch(images, np.arange(8) % config.num_conditions)
    noise = rng.standard_normal((40, config.channels, config.side, config.side), np.float32)
    golden = {
        "noise": noise,
        "teacher": noise,
        "healthy": np.full((_settings(changes), 5, 5), 1e3, np.float32),
        "conditions": np.repeat(np.array(KNOWN), 8),
        "real_features": rng.standard_normal((60, 64), np.float32),
        "base_fidelity": np.array([0.2], np.float32),
        "base_kid": np.array([0.0], np.float32),
    }
    content = {
        "student.onnx": export_student(model, 8, 16.0, probe),
        "judge.onnx": export_judge(judge, probe),
        "golden.safetensors": encode_tensors(golden),
        "start.safetensors": encode_params(start_factors(config, 8, seed=version)),
        "student.safetensors": encode_params(weights_of(model)),
    }
    settings = {
        "version": version,
        "family": "flow_image",
        "model": asdict(config),
        "rank": 8,
        "alpha": 16.0,
        "adapter_shapes": adapter_shapes(config, 8, KNOWN),
        "steps": steps,
        "guidance": guidance,
        "known_conditions": KNOWN,
        "num_conditions": config.num_conditions,
        "max_fidelity_drop": 1.0,
        "max_kid_rise": 1e6,
        "max_out_of_range": 1.0,
    }
    settings |= changes
    settings.setdefault("variants", (usual(settings["steps"], settings["guidance"]),))
    return write_release(folder, content, Manifest(**settings), RELEASE_KEY)


def _settings(changes):
    """In how many settings a device itself may answer."""
    return sum(not each.is_remote for each in changes.get("variants", ())) or 1


def manifest_digest(folder):
    return sum_of((folder / MANIFEST).read_bytes()).sha256


def _model(graph):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
