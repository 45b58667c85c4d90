"""What the learner does with a job: the only part of the agent that knows torch."""

from collections.abc import Callable
from pathlib import Path

import torch

from learning_core.models.flow_image import FlowImage, FlowImageConfig
from learning_core.models.lora import build_student
from learning_core.training.fitting import FitState, Recipe, start_state
from learning_core.training.flow_images import fit_flow
from protos.codec import decode_params
from protos.learner_records import (
    CHECKPOINT,
    SAMPLES,
    SHARED,
    Checkpoint,
    FitCommand,
    Progress,
    decode_checkpoint,
    decode_samples,
    encode_checkpoint,
)
from protos.release import MANIFEST, START, STUDENT_WEIGHTS, Manifest, decode_manifest
from protos.state_folder import write_atomically


def run(command: FitCommand, report: Callable[[Progress], None]) -> None:
    """Do a job, going on from its checkpoint if it has one. Raises DewfallError, OSError or ValueError."""
    torch.set_num_threads(1)
    folder, release = Path(command.folder), Path(command.release)
    manifest = decode_manifest((release / MANIFEST).read_bytes())
    model = student(release, manifest)
    recipe = Recipe(steps=command.steps, batch=command.batch, learning_rate=command.learning_rate, seed=command.seed)
    samples = decode_samples((folder / SAMPLES).read_bytes())
    state = _state(folder, manifest)
    losses = [0.0]
    while state.step < recipe.steps:
        state, losses = fit_flow(model, samples, manifest.known_conditions, recipe, state, command.slice_steps)
        checkpoint = Checkpoint(state.step, state.adapter, state.moments)
        write_atomically(folder / CHECKPOINT, encode_checkpoint(checkpoint))
        if state.step < recipe.steps:
            report(_progress(state.step, losses))
    report(_progress(state.step, losses))


def student(release: Path, manifest: Manifest) -> FlowImage:
    """The release's student with adapters attached."""
    weights, start = (decode_params((release / name).read_bytes()) for name in (STUDENT_WEIGHTS, START))
    config = FlowImageConfig(**{name: int(value) for name, value in manifest.model.items()})
    return build_student(config, weights, start, manifest.alpha, manifest.known_conditions)


def peak_rss_mb() -> float:
    """The most memory this process has held, in MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _state(folder: Path, manifest: Manifest) -> FitState:
    if (folder / CHECKPOINT).exists():
        saved = decode_checkpoint((folder / CHECKPOINT).read_bytes())
        return FitState(saved.step, saved.adapter, saved.moments)
    return start_state(decode_params((folder / SHARED).read_bytes(), manifest.adapter_shapes))


def _progress(step: int, losses: list[float]) -> Progress:
    return Progress(step, sum(losses) / len(losses), peak_rss_mb())
