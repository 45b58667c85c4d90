"""What the learner does with a job: the only part of the agent that knows torch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learning_core.models.flow_image import FlowImage, FlowImageConfig
from learning_core.models.lora import adapter_weights, build_student
from learning_core.training.fitting import ORDERS, FitState, Recipe, start_state
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

B_FACTOR = ".lora_B"


def run(command: FitCommand, report: Callable[[Progress], None]) -> None:
    """Do a job, going on from its checkpoint if it has one. Raises DewfallError, OSError or ValueError."""
    torch.set_num_threads(1)
    folder, release = Path(command.folder), Path(command.release)
    manifest = decode_manifest((release / MANIFEST).read_bytes())
    model = student(release, manifest)
    recipe = Recipe(steps=command.steps, batch=command.batch, learning_rate=command.learning_rate, seed=command.seed)
    samples = decode_samples((folder / SAMPLES).read_bytes())
    state = narrowed(model, _state(folder, manifest), command.rank)
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


def narrowed(model: FlowImage, state: FitState, rank: int) -> FitState:
    """From here on only the first `rank` columns of each B move; the rest keep their values and lose their moments.

    FFA-LoRA freezes A and shares it, so column j means the same on every device: what a narrower device sends is an
    update that is exactly zero in the other columns, and the fleet's mean stays exact. A's rows are random and alike,
    so that the first columns are as good as any; those everybody trains gain most.
    """
    columns = {name: leaf for name, leaf in adapter_weights(model).items() if name.endswith(B_FACTOR)}
    for leaf in columns.values():
        leaf.register_hook(partial(_first_columns, rank=rank))  # type: ignore[no-untyped-call]
    held = {f"{name}.{order}" for name in columns for order in ORDERS}
    moments = {
        name: value * (np.arange(value.shape[-1]) < rank) if name in held else value
        for name, value in state.moments.items()
    }
    return FitState(state.step, state.adapter, moments)


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


def _first_columns(gradient: Tensor, rank: int) -> Tensor:
    """[out, r] with zeros from column `rank` on."""
    return gradient * (torch.arange(gradient.shape[-1]) < rank)


def _progress(step: int, losses: list[float]) -> Progress:
    return Progress(step, sum(losses) / len(losses), peak_rss_mb())
