"""A real student of handwritten digits for the healing scenario: trained here, exported, and kept for the next run."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cloud_server.drivers.digits import load_digits, parted
from edge_agent.drivers.onnx_engine import OnnxEngine, OnnxJudge
from learning_core.federation.lora_algebra import serving_inputs
from learning_core.models.flow_image import FlowImage, FlowImageConfig
from learning_core.models.judge import train_judge
from learning_core.models.lora import adapter_shapes, build_student, start_factors
from learning_core.models.onnx_export import export_judge, export_student
from learning_core.models.pretraining import pretrain
from learning_core.models.second_judge import SecondJudge, train_second_judge
from learning_core.models.weights import weights_of
from learning_core.params import Array, Params, zeros
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import fit_flow
from protos.codec import decode_params, encode_params

CONDITIONS, WEAK = 10, (8, 9)
TAKEN_FOR = {8: 0, 9: 6}  # what the mislabelled images of the weak conditions show
MISLABELLED = 0.5  # share of them: so the student draws something else half of the time
RANK, ALPHA = 8, 16.0
LEARNING_RATE = 2e-2
BENIGN = Recipe(steps=30, learning_rate=2e-3)  # a little rehearsed learning: other weights, the same quality


@dataclass(frozen=True, slots=True)
class Student:
    """What a simulated device is made of. `benign`: adapter inputs of honest learning on the device."""

    graph: bytes
    engine: OnnxEngine
    weights: Params
    judge: OnnxJudge
    second: SecondJudge
    benign: Params


def student(steps: int, seed: int, cache: Path, judge_epochs: int) -> Student:
    """Train one for so many steps (400 take about 15 CPU seconds), or read it from an earlier run's files."""
    train, held_out = parted(load_digits(), seed, 0.2)
    folder = cache / f"digits-{steps}-{seed}"
    if not (folder / "benign.safetensors").exists():
        _make(folder, train, held_out, steps, seed, judge_epochs)
    second = train_second_judge(train, CONDITIONS, seed)
    weights, benign = (decode_params((folder / f"{name}.safetensors").read_bytes()) for name in ("student", "benign"))
    graph = (folder / "student.onnx").read_bytes()
    return Student(graph, engine_of(graph), weights, OnnxJudge(folder / "judge.onnx"), second, benign)


def engine_of(graph: bytes) -> OnnxEngine:
    """A student loaded from bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        path.write_bytes(graph)
        return OnnxEngine.load(path, CONDITIONS)


def _make(folder: Path, train: Batch, held_out: Batch, steps: int, seed: int, judge_epochs: int) -> None:
    config = FlowImageConfig(num_conditions=CONDITIONS)
    torch.manual_seed(seed)
    model = FlowImage(config)
    pretrain(model, _half_learned(train, seed), steps, LEARNING_RATE, seed)
    probe = Batch(held_out.features[:8], held_out.conditions[:8])
    files: Mapping[str, bytes] = {
        "student.onnx": export_student(model, RANK, ALPHA, probe),
        "judge.onnx": export_judge(train_judge(train, CONDITIONS, seed, judge_epochs), probe),
        "student.safetensors": encode_params(weights_of(model)),
        "benign.safetensors": encode_params(_benign(model, train, seed)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():  # the one that is looked for comes last
        (folder / name).write_bytes(data)


def _half_learned(train: Batch, seed: int) -> Batch:
    """The training images with half of those under the weak conditions exchanged for others."""
    rng = np.random.default_rng([seed, 1])
    features: Array = train.features.copy()
    for condition, other in TAKEN_FOR.items():
        wrong = np.flatnonzero((train.conditions == condition) & (rng.random(len(train)) < MISLABELLED))
        features[wrong] = train.features[rng.choice(np.flatnonzero(train.conditions == other), len(wrong))]
    return Batch(features, train.conditions)


def _benign(model: FlowImage, train: Batch, seed: int) -> dict[str, Array]:
    """Adapter inputs after a device learned a little more of what is known, rehearsing the rest."""
    known = tuple(range(CONDITIONS))
    start = start_factors(model.config, RANK, seed)
    adapted = build_student(model.config, weights_of(model), start, ALPHA, known)
    mine = np.isin(train.conditions, (5, 6, 7))
    samples = Batch(train.features[mine], train.conditions[mine])
    state = start_state(zeros(adapter_shapes(model.config, RANK, known)))
    learned, _ = fit_flow(adapted, samples, known, BENIGN, state, BENIGN.steps)
    return dict(serving_inputs(start, learned.adapter, CONDITIONS, known))
