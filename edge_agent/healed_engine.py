"""A student beside which healed outputs lie: it draws what there is none of."""

import numpy as np
from numpy.typing import NDArray

from edge_agent.healing.cache import HealedOutputs
from edge_agent.ports import Engine
from learning_core.params import Array, Params


def student_of(engine: Engine) -> Engine:
    """The student itself, without what lies beside it."""
    return engine.student if isinstance(engine, HealedEngine) else engine


class HealedEngine:
    """Never changes. Equal noise and conditions give equal samples, as of any engine."""

    def __init__(self, student: Engine, outputs: HealedOutputs) -> None:
        self.student = student
        self.outputs = outputs

    def adapted(self, inputs: Params | None) -> "HealedEngine":
        return HealedEngine(self.student.adapted(inputs), self.outputs)

    def embed(self, features: Array) -> Array:
        return self.student.embed(features)

    def generate(self, noise: Array, conditions: NDArray[np.int64], steps: int, guidance: float) -> Array:
        kept = {
            row: output
            for row, condition in enumerate(conditions)
            if (output := self.outputs.near(int(condition), noise[row])) is not None
        }
        left = [row for row in range(len(noise)) if row not in kept]
        samples = np.empty_like(noise)
        if left:
            samples[left] = self.student.generate(noise[left], conditions[left], steps, guidance)
        for row, output in kept.items():
            samples[row] = output
        return samples
