"""A fleet in one process: devices that answer Flower's messages as an agent would, without an agent around them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from learning_core.federation.privacy import clip
from learning_core.metrics.images import kid, per_condition_fidelity
from learning_core.models.flow_image import FlowImage, FlowImageConfig, generate
from learning_core.models.judge import Judge, train_judge
from learning_core.models.lora import adapter_shapes, build_student, start_factors, write_adapter
from learning_core.models.pretraining import pretrain
from learning_core.models.weights import weights_of
from learning_core.params import Array, Params, Shapes, subtract
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import fit_flow
from learning_core.updates import Update
from protos.flower_records import Declined, DeviceStatus, StatusQuery, Trained, TrainRequest

LEARNING_RATE = 2e-2


@dataclass(frozen=True)
class Base:
    """What a fleet starts from: a student that knows some conditions, and a judge that knows all."""

    config: FlowImageConfig
    weights: Params
    start: Params
    alpha: float
    known: tuple[int, ...]
    judge: Judge
    real: Batch  # held out from everything but the judge's verdicts

    @cached_property
    def shapes(self) -> Shapes:
        return adapter_shapes(self.config, len(next(iter(self.start.values()))), self.known)

    def student(self) -> FlowImage:
        return build_student(self.config, self.weights, self.start, self.alpha, self.known)


def learned_base(
    train: Batch, held_out: Batch, known: Sequence[int], num_conditions: int, steps: int, seed: int
) -> Base:
    """Train student and judge: the student on the known conditions only, the judge (a yardstick) on all."""
    config = FlowImageConfig(num_conditions=num_conditions)
    torch.manual_seed(seed)
    model = FlowImage(config)
    mine = np.isin(train.conditions, known)
    pretrain(model, Batch(train.features[mine], train.conditions[mine]), steps, LEARNING_RATE, seed)
    judge = train_judge(train, num_conditions, seed)
    return Base(config, weights_of(model), start_factors(config, 8, seed), 16.0, tuple(known), judge, held_out)


class SimulatedDevice:
    """One device of a simulated fleet; it learns when asked. Nothing is saved.

    `rehearse` False leaves out what keeps old conditions: the naive peer every method has to beat.
    """

    def __init__(self, samples: Batch, base: Base, recipe: Recipe, *, rehearse: bool = True) -> None:
        self._samples, self._base, self._recipe = samples, base, recipe
        self._known = base.known if rehearse else ()

    def adapter_shapes(self) -> Shapes:
        return self._base.shapes

    def status(self, query: StatusQuery) -> DeviceStatus:
        return DeviceStatus(True, "simulated", query.latest_release, len(self._samples), {})

    def train(self, request: TrainRequest) -> Trained | Declined:
        if not len(self._samples):
            return Declined(request.round, "few_samples: there is nothing to learn from")
        model = self._base.student()
        state, losses = fit_flow(
            model, self._samples, self._known, self._recipe, start_state(request.shared), self._recipe.steps
        )
        delta = subtract(state.adapter, request.shared)
        update = Update(delta, len(self._samples), request.base_version)
        return Trained(request.round, clip(update, request.clip_norm), {"loss": float(np.mean(losses[-10:]))})


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a student is. Fidelities are shares 0..1 per condition; KID on the judge's z-scored features."""

    fidelity: Mapping[int, float]
    kid: float

    def mean(self, conditions: Sequence[int]) -> float:
        return float(np.mean([self.fidelity[condition] for condition in conditions]))


def judged(base: Base, adapter: Params, per_condition: int, guidance: float, seed: int) -> Quality:
    """Generate `per_condition` images of every condition with the adapter on, and ask the judge."""
    model = base.student()
    write_adapter(model, adapter)
    conditions = torch.arange(base.config.num_conditions).repeat_interleave(per_condition)
    generator = torch.Generator().manual_seed(seed)
    side, channels = base.config.side, base.config.channels
    noise = torch.randn(len(conditions), channels, side, side, generator=generator)
    images = generate(model, noise, conditions, 10, guidance)
    with torch.no_grad():
        logits, features = base.judge(images)
        _, real = base.judge(torch.tensor(base.real.features))
    return Quality(per_condition_fidelity(_numpy(logits), conditions.numpy()), kid(_numpy(features), _numpy(real)))


def _numpy(values: torch.Tensor) -> Array:
    return values.detach().numpy()
