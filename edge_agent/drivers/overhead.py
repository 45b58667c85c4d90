"""What the agent adds to the bare ONNX Runtime session: the same samples drawn both ways, in interleaved pairs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_agent.drivers.control_socket import AgentLine
from edge_agent.drivers.onnx_engine import OnnxEngine
from edge_agent.healed_engine import HealedEngine, student_of
from edge_agent.serving import NothingServed, Serving
from learning_core.errors import DewfallError
from learning_core.params import Array


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample drawn by a loop around the session alone, and one asked of the agent, in milliseconds.

    `*_core_ms`: without what other programs took of that.
    """

    bare_ms: float
    agent_ms: float
    bare_core_ms: float
    agent_core_ms: float
    variant: str


def measure_pair(serving: Serving, condition: int, seed: int) -> Pair:
    """Draw the same sample both ways, in an order that the seed decides, by the variant that answers now."""
    name, served = serving.draw([condition], seed).variant, serving.served
    found = [each for each in served.variants if each.name == name] if served is not None else []
    if served is None or not found:
        raise NothingServed("the release was exchanged just now; try again")
    engine = served.engines[found[0].graph]
    if isinstance(engine, HealedEngine) and condition in engine.outputs.conditions():
        raise DewfallError(f"healed outputs answer condition {condition}, not the student; measure with another one")
    if not isinstance(engine := student_of(engine), OnnxEngine):
        raise DewfallError(f"{name} is not drawn by a session of this device, so there is nothing to compare it with")
    null, variant, session = served.release.manifest.num_conditions, found[0], engine.session
    noise = np.random.default_rng(seed).standard_normal((1, *served.release.sample_shape), np.float32)

    def bare() -> None:
        bare_loop(session, noise, condition, null, variant.steps, variant.guidance)

    def agent() -> None:
        serving.answer([condition], seed)

    first, second = (bare, agent) if seed % 2 else (agent, bare)
    took = {first: _timed_ms(first), second: _timed_ms(second)}
    (bare_ms, bare_core_ms), (agent_ms, agent_core_ms) = took[bare], took[agent]
    return Pair(bare_ms, agent_ms, bare_core_ms, agent_core_ms, name)


def overhead(pairs: Sequence[Pair]) -> float:
    """What the agent takes more, as a share of the bare session's time: the median over pairs."""
    return float(np.median([pair.agent_ms / pair.bare_ms for pair in pairs])) - 1


def measure_through(socket: Path, condition: int, pairs: int) -> dict[str, Any]:
    """What a running agent and its socket add, as shares: medians over interleaved pairs. Raises DewfallError."""
    bare, agent, outside = [], [], []
    with AgentLine(socket) as line:
        for seed in range(pairs):
            pair, _ = line.ask("overhead", condition=condition, seed=seed)
            began = time.perf_counter()
            line.ask("infer", conditions=[condition], seed=seed)
            outside.append((time.perf_counter() - began) * 1e3)
            bare.append(pair["bare_ms"])
            agent.append(pair["agent_ms"])
    return {
        "pairs": pairs,
        "bare_ms": median(bare),
        "agent_ms": median(agent),
        "socket_ms": median(outside),
        "agent_overhead": median(a / b for a, b in zip(agent, bare, strict=True)) - 1,
        "socket_overhead": median(s / b for s, b in zip(outside, bare, strict=True)) - 1,
    }


def bare_loop(
    session: ort.InferenceSession, noise: Array, condition: int, null: int, steps: int, guidance: float
) -> Array:
    """What a program without an agent would write: no adapter, and the session called with plain arrays."""
    x, twice = noise, guidance != 1.0
    y = np.array([condition, null] if twice else [condition], np.int64)
    for step in range(steps):
        t = np.full(len(y), step / steps, np.float32)
        velocity = session.run(["velocity"], {"x": np.concatenate((x, x)) if twice else x, "t": t, "y": y})[0]
        if twice:
            velocity = velocity[1:] + np.float32(guidance) * (velocity[:1] - velocity[1:])
        x = x + velocity / np.float32(steps)
    return x


def _timed_ms(draw: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of a core."""
    began, used = time.perf_counter(), time.thread_time()
    draw()
    core_s = time.thread_time() - used
    return (time.perf_counter() - began) * 1e3, core_s * 1e3
