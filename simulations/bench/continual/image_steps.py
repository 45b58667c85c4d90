"""Classes arrive in steps, and a small generator learns each with nothing stored of the ones before.

A base knows classes 0-4; an adapter on the frozen base learns {5, 6} and then {7, 8, 9}. What the methods differ in is
where the other half of each batch comes from; the bounds are an adapter that sees everything at once and one that is
shown only what is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from learning_core.metrics import images as measures
from learning_core.metrics.stages import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
)
from learning_core.models.flow_image import (
    FlowImage,
    FlowImageConfig,
    flow_image_of,
    generate_in_pieces,
    new_flow_image,
)
from learning_core.models.judge import EPOCHS, Judge, train_judge
from learning_core.models.lora import build_student, merge, read_adapter, start_factors
from learning_core.models.pretraining import pretrain
from learning_core.models.second_judge import SecondJudge, train_second_judge
from learning_core.models.weights import weights_of
from learning_core.params import Array, Params
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import Teacher, fit_flow

GROUPS = ((0, 1, 2, 3, 4), (5, 6), (7, 8, 9))
BASE, ALL = GROUPS[0], sum(GROUPS, ())
STAGE_METRICS = (average_accuracy, average_incremental_accuracy, backward_transfer, forgetting)
METHODS = ("distilled", "naive", "generative replay", "joint")
AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Sizes of a run. `guidance` and `sampling_steps` are those a person is served with, and judged."""

    config: FlowImageConfig
    base_steps: int
    base_rate: float
    rank: int
    alpha: float
    steps: int
    learning_rate: float
    batch: int
    guidance: float
    sampling_steps: int = 10
    images_per_condition: int = 200
    methods: tuple[str, ...] = METHODS


@dataclass(frozen=True)
class World:
    """What is given before anything is adapted; the judges and the held-out images are for measuring only."""

    protocol: Protocol
    train: Batch
    held_out: Batch
    weights: Params
    start: Params
    judge: Judge
    second: SecondJudge

    def base(self) -> FlowImage:
        return flow_image_of(self.protocol.config, self.weights)


def founded(protocol: Protocol, train: Batch, held_out: Batch, seed: int, judge_epochs: int = EPOCHS) -> World:
    """A generator that knows the first group, the adapters' start, and the judges."""
    model = new_flow_image(protocol.config, seed)
    pretrain(model, only(train, BASE), protocol.base_steps, protocol.base_rate, seed)
    start = start_factors(protocol.config, protocol.rank, seed)
    judges = train_judge(train, len(ALL), seed, judge_epochs), train_second_judge(train, len(ALL), seed)
    return World(protocol, train, held_out, weights_of(model), start, *judges)


def stages(world: World, method: str, seed: int) -> list[FlowImage]:
    """The generator after each step, merged into a plain one; the joint bound has a last stage only."""
    protocol = world.protocol
    model = build_student(protocol.config, world.weights, world.start, protocol.alpha, BASE)
    null = protocol.config.null_condition
    if method == "joint":
        learn(model, world.train, (), (), protocol, seed)
        return [flow_image_of(protocol.config, merge(model))]
    done: list[FlowImage] = []
    for number in (1, 2):
        news, learned = only(world.train, GROUPS[number]), sum(GROUPS[1:number], ())
        if method == "distilled":
            earlier = (Teacher(done[-1], learned),) if learned else ()
            learn(model, news, (*BASE, null), earlier, protocol, seed + number)
        elif method == "generative replay":
            before = done[-1] if done else world.base()
            imagined = dreamed(before, (*BASE, *learned), len(news), protocol, seed + number)
            learn(model, joined(news, imagined), (), (), protocol, seed + number)
        else:
            learn(model, news, (), (), protocol, seed + number)
        done.append(flow_image_of(protocol.config, merge(model)))
    return done


def learn(
    model: FlowImage, samples: Batch, known: Sequence[int], earlier: Sequence[Teacher], protocol: Protocol, seed: int
) -> None:
    """One fit from the adapter as it is; the model is left holding the new one."""
    recipe = Recipe(steps=protocol.steps, batch=protocol.batch, learning_rate=protocol.learning_rate, seed=seed)
    fit_flow(model, samples, known, recipe, start_state(read_adapter(model)), protocol.steps, earlier)


def dreamed(model: FlowImage, conditions: Sequence[int], num: int, protocol: Protocol, seed: int) -> Batch:
    """As many images as are new, of what the model knows. Generative replay, Shin et al. 2017 (arXiv:1705.08690)."""
    asked = torch.tensor(conditions).repeat(-(-num // len(conditions)))[:num]
    return Batch(drawn(model, asked, protocol.guidance, protocol.sampling_steps, seed), asked.numpy())


def drawn(model: FlowImage, asked: Tensor, guidance: float, steps: int, seed: int) -> Array:
    """Images [N, C, H, W] of the conditions asked for; equal seeds give every model equal noise."""
    config = model.config
    noise = torch.randn(len(asked), config.channels, config.side, config.side, generator=Generator().manual_seed(seed))
    return generate_in_pieces(model, noise, asked, steps, guidance).numpy()


@dataclass(frozen=True)
class Seen:
    """Images that were asked for, and what the judges make of them."""

    asked: measures.Labels
    images: Array
    logits: Array
    features: Array
    second: Array

    def fidelity(self, group: Sequence[int]) -> float:
        mine = np.isin(self.asked, group)
        return measures.class_fidelity(self.logits[mine], self.asked[mine])


def seen(world: World, model: FlowImage, seed: int, *, guidance: float | None = None, steps: int | None = None) -> Seen:
    """Every condition asked for equally often, as a person would be served unless other steps or guidance are given."""
    protocol = world.protocol
    asked = torch.arange(protocol.config.num_conditions).repeat_interleave(protocol.images_per_condition)
    images = drawn(model, asked, guidance or protocol.guidance, steps or protocol.sampling_steps, seed)
    logits, features = asked_judge(world.judge, images)
    return Seen(asked.numpy(), images, logits, features, world.second.logits(images))


def asked_judge(judge: Judge, images: Array) -> tuple[Array, Array]:
    """(logits [N, K], z-scored features [N, 64])."""
    with torch.no_grad():
        answers = [judge(torch.from_numpy(piece)) for piece in np.array_split(images, -(-len(images) // AT_ONCE))]
    logits, features = (torch.cat(parts).numpy() for parts in zip(*answers, strict=True))
    return logits, features


def quality(world: World, found: Seen, group: Sequence[int]) -> dict[str, float]:
    """How good the images of a group of conditions are, against the held-out real ones of that group."""
    mine = np.isin(found.asked, group)
    real, train = only(world.held_out, group), only(world.train, group)
    images, asked = found.images[mine], found.asked[mine]
    _, features = asked_judge(world.judge, real.features)
    return {
        "fidelity": measures.class_fidelity(found.logits[mine], asked),
        "second_judge": measures.class_fidelity(found.second[mine], asked),
        "kid": measures.kid(found.features[mine], features),
        "fid": measures.fid(found.features[mine], features),
        "out_of_range": measures.out_of_range_share(images),
        "nearest_neighbour_ratio": measures.nearest_neighbour_ratio(images, train.features, real.features),
        "diversity": measures.diversity(images, asked) / measures.diversity(real.features, real.conditions),
    }


def matrix(world: World, after: Sequence[Seen], seed: int) -> list[list[float]]:
    """R [4, 3]: fidelity of each group before any learning, after the base and after both steps."""
    untrained = seen(world, new_flow_image(world.protocol.config, seed), seed)
    return [[found.fidelity(group) for group in GROUPS] for found in (untrained, *after)]


def only(samples: Batch, conditions: Sequence[int]) -> Batch:
    mine = np.isin(samples.conditions, conditions)
    return Batch(samples.features[mine], samples.conditions[mine])


def joined(left: Batch, right: Batch) -> Batch:
    return Batch(np.concatenate((left.features, right.features)), np.concatenate((left.conditions, right.conditions)))


def all_methods(world: World, seed: int) -> tuple[dict[str, Any], FlowImage]:
    """Every method's figures, and the generator that the one with nothing stored ends with."""
    before = seen(world, world.base(), seed)
    learned = {method: stages(world, method, seed) for method in world.protocol.methods}
    rows = {}
    for method, models in learned.items():
        after = [seen(world, model, seed) for model in models]
        row: dict[str, Any] = {"fidelity": [after[-1].fidelity((condition,)) for condition in ALL]}
        row |= {"old": quality(world, after[-1], BASE), "all": quality(world, after[-1], ALL)}
        if method != "joint":
            row["matrix"] = matrix(world, (before, *after), seed)
        rows[method] = row
    return {"methods": rows, "before": quality(world, before, BASE)}, learned[METHODS[0]][-1]


def by_seed(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Of the method with nothing stored: what the claims are made of."""
    rows = [result["methods"][METHODS[0]] for result in results]
    learned = [np.array(row["matrix"]) for row in rows]
    return {
        "fidelity": [float(np.mean(row["fidelity"])) for row in rows],
        "base_drop": [float(r[1, 0] - r[-1, 0]) for r in learned],
        "step_drop": [float(r[2, 1] - r[-1, 1]) for r in learned],
        "kid_drift": [row["old"]["kid"] - result["before"]["kid"] for row, result in zip(rows, results, strict=True)],
    }


def stepwise(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The methods of a run that learned in steps, so that they have a matrix."""
    return [method for method, row in results[0]["methods"].items() if "matrix" in row]


def figures_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that was measured, the images left out, with the usual metrics of each method's matrices."""
    metrics = {}
    for method in stepwise(results):
        matrices = [np.array(result["methods"][method]["matrix"]) for result in results]
        metrics[method] = {metric.__name__: [metric(r) for r in matrices] for metric in STAGE_METRICS}
    kept = [{name: value for name, value in result.items() if name != "sheet"} for result in results]
    return {"per_seed": kept, "by_seed": by_seed(results), "metrics": metrics, "stored": "nothing of earlier steps"}
