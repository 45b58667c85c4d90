"""What honest learning does to a release before anybody has it: a few updates, made as devices would make them.

Devices take turns, each with samples of its own from where the one before came: later updates go further than first
ones, and a device that looks at its own does not know how far the fleet has come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cloud_server.distillation import Base
from cloud_server.measurement import Sampler, draw, noise_for, opinion
from learning_core.errors import Malformed
from learning_core.metrics.golden import HARMS, Figures, Labels, figures, harms, nearness
from learning_core.models.flow_image import FlowImage
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes, build_student, new_conditions, write_adapter
from learning_core.params import Array, Params, zeros
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import fit_flow
from protos.codec import decode_params, encode_params

UPDATES = 6
CONDITIONS, SAMPLES = 2, 40  # that each sees


@dataclass(frozen=True, slots=True)
class Onlooker:
    """Draws a golden set with a student and looks at it as devices will."""

    judge: Judge
    sampler: Sampler
    noise: Array
    conditions: Labels
    real: Array
    teacher: Array  # features of its samples

    def figures(self, model: FlowImage) -> Figures:
        images = draw(model, self.noise, self.conditions, self.sampler)
        return figures(images, *opinion(self.judge, images), self.conditions, self.real, self.teacher)

    def nearness(self, model: FlowImage, samples: Batch, seed: int) -> float | None:
        """Whether the model repeats what it learned from."""
        asked = samples.conditions
        drawn = draw(model, noise_for(model, len(asked), seed), asked, self.sampler)
        return nearness(opinion(self.judge, drawn)[1], opinion(self.judge, samples.features)[1])


def healthy_updates(base: Base, held_out: Batch, seed: int) -> list[Params]:
    """Six adapters as honest devices would hold them, learned from real samples of `held_out`."""
    model = build_student(base.config, base.weights, base.start, base.alpha, base.known)
    shared: Params = zeros(adapter_shapes(base.config, len(next(iter(base.start.values()))), base.known))
    seen, learned = seen_by_devices(held_out, base, seed), list[Params]()
    for turn, samples in enumerate(seen):
        recipe = Recipe(seed=seed + turn)
        state, _ = fit_flow(model, samples, base.known, recipe, start_state(shared), recipe.steps)
        shared = state.adapter
        learned.append(shared)
    return learned


def encode_updates(updates: Sequence[Params]) -> bytes:
    return encode_params(
        {f"{place}/{name}": value for place, each in enumerate(updates) for name, value in each.items()}
    )


def decode_updates(data: bytes) -> list[Params]:
    """Inverse of `encode_updates`. Raises Malformed."""
    updates: dict[int, dict[str, Array]] = {}
    for key, value in decode_params(data).items():
        place, _, name = key.partition("/")
        if not place.isdecimal():
            raise Malformed(f"{key[:80]!r} is of no update")
        updates.setdefault(int(place), {})[name] = value
    return [updates[place] for place in sorted(updates)]


def healthy_harms(
    base: Base, onlookers: Sequence[Onlooker], held_out: Batch, updates: Sequence[Params], seed: int
) -> NDArray[np.float32]:
    """[V, K, 5]: how far these updates go from the base, by `HARMS`, in each onlooker's setting; the usual one first.

    Whether a student repeats what it learned is looked at in that one only, and 0 in the others.
    """
    model = build_student(base.config, base.weights, base.start, base.alpha, base.known)
    before, seen = [each.figures(model) for each in onlookers], seen_by_devices(held_out, base, seed)
    found = np.zeros((len(onlookers), len(updates), len(HARMS)), np.float32)
    for place, adapter in enumerate(updates):
        write_adapter(model, adapter)
        near = onlookers[0].nearness(model, seen[place], seed)
        for setting, onlooker in enumerate(onlookers):
            figures_ = replace(onlooker.figures(model), nearness=None if setting else near)
            found[setting, place] = harms(figures_, before[setting])
    return np.nan_to_num(found)


def seen_by_devices(held_out: Batch, base: Base, seed: int) -> list[Batch]:
    """Real samples of a few conditions for each device, new ones if there are any."""
    rng = np.random.default_rng(seed)
    there, new = set(held_out.conditions.tolist()), set(new_conditions(base.config, base.known))
    samples = []
    for _ in range(UPDATES):
        some = rng.choice(sorted(there & new or there), CONDITIONS)
        rows = rng.permutation(np.flatnonzero(np.isin(held_out.conditions, some)))[:SAMPLES]
        samples.append(Batch(held_out.features[rows], held_out.conditions[rows]))
    return samples
