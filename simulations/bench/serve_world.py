"""What the serving benchmark asks: a student of the demo's size, untrained, in a release, alone or in an agent."""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_server.measurement import Sampler
from cloud_server.releases import variants_of
from edge_agent.drivers.control_socket import AgentLine
from edge_agent.drivers.onnx_engine import load_release
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.ports import Release
from edge_agent.slots import RELEASE, Slots
from learning_core.errors import DewfallError, LinkDown
from learning_core.federation.lora_algebra import serving_inputs
from learning_core.models.flow_image import FlowImage, FlowImageConfig, new_flow_image
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes, start_factors
from learning_core.models.onnx_export import export_int8_student, export_judge, export_student
from learning_core.models.weights import seeded, weights_of
from learning_core.params import Params
from learning_core.samples import Batch
from protos.codec import encode_params, encode_tensors
from protos.release import (
    GOLDEN,
    JUDGE_GRAPH,
    MANIFEST,
    START,
    STUDENT_GRAPH,
    STUDENT_INT8,
    STUDENT_WEIGHTS,
    Manifest,
    sum_of,
    write_release,
)
from simulations.bench.small_fleet import make_certificate
from simulations.demo.leash import leashed
from simulations.demo.processes import environment

KNOWN, RANK, ALPHA = (0, 1, 2, 3, 4), 8, 16.0
SAMPLER = Sampler(steps=10, guidance=1.5)
HEALTHY = 5  # rows and figures of honest updates; as wide as the gates


def make_release(folder: Path, config: FlowImageConfig = FlowImageConfig()) -> tuple[Release, bytes]:
    """A loaded release in `folder`/1 and the public key it is signed with. Its weights are random: only time counts."""
    model = _untrained(config)
    judge = seeded(lambda: Judge(config.channels, config.side, config.num_conditions), 0).eval()
    rng = np.random.default_rng(0)
    shape = (config.channels, config.side, config.side)
    probe = Batch(rng.uniform(-1, 1, (8, *shape)).astype(np.float32), np.arange(8) % config.num_conditions)
    noise = rng.standard_normal((40, *shape), np.float32)
    graphs = {
        STUDENT_GRAPH: export_student(model, RANK, ALPHA, probe),
        STUDENT_INT8: export_int8_student(model, RANK, ALPHA, probe),
    }
    variants = variants_of(SAMPLER, graphs)
    own = sum(not each.is_remote for each in variants)
    golden = {
        "noise": noise,
        "teacher": noise,
        "healthy": np.full((own, HEALTHY, HEALTHY), 1e3, np.float32),
        "conditions": np.repeat(np.array(KNOWN), 8),
        "real_features": rng.standard_normal((60, 64), np.float32),
        "base_fidelity": np.array([0.2], np.float32),
        "base_kid": np.array([0.0], np.float32),
    }
    files = graphs | {
        JUDGE_GRAPH: export_judge(judge, probe),
        GOLDEN: encode_tensors(golden),
        START: encode_params(start_factors(config, RANK, seed=0)),
        STUDENT_WEIGHTS: encode_params(weights_of(model)),
    }
    draft = Manifest(
        version=1,
        family="flow_image",
        model=asdict(config),
        rank=RANK,
        alpha=ALPHA,
        adapter_shapes=adapter_shapes(config, RANK, KNOWN),
        steps=SAMPLER.steps,
        guidance=SAMPLER.guidance,
        known_conditions=KNOWN,
        num_conditions=config.num_conditions,
        max_fidelity_drop=1.0,  # an untrained student passes
        max_kid_rise=1e6,
        max_out_of_range=1.0,
        variants=variants,
    )
    key = Ed25519PrivateKey.generate()
    manifest = write_release(folder / "1", files, draft, key)
    digest = sum_of((folder / "1" / MANIFEST).read_bytes()).sha256
    return load_release(folder / "1", manifest, digest), key.public_key().public_bytes_raw()


def random_adapter(release: Release, seed: int) -> Params:
    """Inputs of the graph for an adapter that moves every sample."""
    rng, manifest = np.random.default_rng(seed), release.manifest
    adapter = {
        name: (0.05 * rng.standard_normal(shape)).astype(np.float32) for name, shape in manifest.adapter_shapes.items()
    }
    return serving_inputs(release.start, adapter, manifest.num_conditions, manifest.known_conditions)


@contextlib.contextmanager
def agent(folder: Path, interval_s: float) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A real agent that serves a release and whose fog is away; the process and its socket.

    A fog that is away costs an agent more than one that is there and asks for nothing: it is looked for ever again.
    """
    state = folder / "state"
    (state / "releases").mkdir(parents=True)
    _, public_key = make_release(state / "releases")
    make_certificate(folder)
    database = Database(state / "agent.db")
    SqliteSlots(database).store(RELEASE, "", Slots(good="1", newest=1), {})
    database.close()
    settings = folder / "device.toml"
    settings.write_text(_settings(folder, state, public_key.hex(), interval_s))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            leashed("edge_agent", "run", "--config", str(settings)), stderr=log, env=environment()
        )
    try:
        yield process, state / "agent.sock"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def status_of(socket: Path, limit_s: float = 30.0) -> Mapping[str, Any]:
    """What the agent says of itself, as soon as it says something. Raises DewfallError."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        try:
            with AgentLine(socket) as line:
                status: Mapping[str, Any] = line.ask("status")[0]["status"]
                return status
        except LinkDown:
            time.sleep(0.1)
    raise DewfallError("the agent did not come up; its log is beside its settings")


def _untrained(config: FlowImageConfig) -> FlowImage:
    model = new_flow_image(config, seed=0).eval()
    torch.nn.init.normal_(model.out.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return model


def _settings(folder: Path, state: Path, public_key: str, interval_s: float) -> str:
    return f"""
name = "bench"
state = "{state}"
[fog]
address = "127.0.0.1:9"
ca = "{folder / "ca.crt"}"
release_key = "{public_key}"
token = "none"
[telemetry]
interval_s = {interval_s}
"""
