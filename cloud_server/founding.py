"""The first release, step by step: a judge, a teacher, a student, their exams.

Teacher and student only ever see base conditions; the judge sees all, because it is the yardstick and never trains
anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloud_server.config import Network, Release, Training
from cloud_server.distillation import Base, Speaker
from cloud_server.evaluation import Evaluation, Quality
from cloud_server.healthy import decode_updates, encode_updates, healthy_updates
from cloud_server.measurement import Sampler, assess, exam
from cloud_server.places import (
    EVALUATION,
    HEALTHY,
    JUDGE,
    JUDGE_GRAPH,
    PUBLISHED,
    STUDENT,
    STUDENT_GRAPH,
    TEACHER,
    TEACHER_EXAM,
)
from cloud_server.ports import Publish, Report, Shelf
from cloud_server.releases import NEXT_SEED, Yardstick, compose
from cloud_server.workflow import Step
from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of, new_flow_image
from learning_core.models.judge import Judge, train_judge
from learning_core.models.lora import start_factors
from learning_core.models.onnx_export import Evaluate, export_judge, export_student
from learning_core.models.pretraining import pretrain
from learning_core.models.weights import load_weights, weights_of
from learning_core.samples import Batch
from protos.codec import decode_params, encode_params

FIRST = 1
TEACHER_IMAGES = 40  # of each condition in its exam, which decides nothing


@dataclass(frozen=True, slots=True)
class Ground:
    """What the first release stands on. Real images in `train`, and others in `held_out` for exams only."""

    training: Training
    rules: Release
    train: Batch
    held_out: Batch
    num_conditions: int

    @property
    def known(self) -> tuple[int, ...]:
        return tuple(sorted(self.training.base_conditions))

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.rules.sampler_steps, self.rules.guidance)

    def config_of(self, network: Network) -> FlowImageConfig:
        _, channels, side, _ = self.train.features.shape
        return FlowImageConfig(
            side=side,
            channels=channels,
            patch=self.training.patch,
            width=network.width,
            depth=network.depth,
            heads=network.heads,
            num_conditions=self.num_conditions,
        )


def teacher_lane(ground: Ground) -> list[Step]:
    """The long step, which needs nothing of the others."""
    return [Step(TEACHER, lambda report: _trained(TEACHER, ground.training.teacher, ground, report))]


def student_lane(ground: Ground, shelf: Shelf, engine: Evaluate) -> list[Step]:
    """A judge, a student, the graphs of both compared on `engine`, and the student's exam."""
    training = ground.training

    def learn_to_judge(_: Report) -> bytes:
        return encode_params(weights_of(train_judge(ground.train, ground.num_conditions, training.seed)))

    def export(_: Report) -> bytes:
        return export_student(load_student(shelf, ground), training.rank, training.alpha, ground.held_out, engine)

    def learn_on_it(_: Report) -> bytes:
        return encode_updates(healthy_updates(first_base(shelf, ground), ground.held_out, training.seed))

    def examine(_: Report) -> bytes:
        everything, each = range(ground.num_conditions), ground.rules.images_per_condition
        quality = _quality(load_student(shelf, ground), everything, each, ground, shelf)
        reasons = ("it is the first release",)
        evaluation = Evaluation(quality=quality, publish=True, reasons=reasons, known=ground.known, as_base=quality)
        return evaluation.model_dump_json(indent=1).encode()

    return [
        Step(JUDGE, learn_to_judge),
        Step(JUDGE_GRAPH, lambda _: export_judge(load_judge(shelf, ground), ground.held_out, engine)),
        Step(STUDENT, lambda report: _trained(STUDENT, training.student, ground, report)),
        Step(STUDENT_GRAPH, export),
        Step(EVALUATION, examine),
        Step(HEALTHY, learn_on_it),
    ]


def final_lane(ground: Ground, shelf: Shelf, publish: Publish) -> list[Step]:
    """The teacher is examined on what it knows; the student is release 1 however good: there is nothing to compare."""

    def examine(_: Report) -> bytes:
        quality = _quality(load_teacher(shelf, ground), ground.known, TEACHER_IMAGES, ground, shelf)
        return quality.model_dump_json(indent=1).encode()

    def publish_first(_: Report) -> bytes:
        training, rules = ground.training, ground.rules
        teachers = [Speaker(load_teacher(shelf, ground), ground.known, ground.sampler)]
        updates = decode_updates(shelf.read(HEALTHY))
        yardstick = Yardstick(load_judge(shelf, ground), shelf.read(JUDGE_GRAPH), ground.held_out, rules.golden_images)
        graph = shelf.read(STUDENT_GRAPH)
        files, manifest = compose(
            FIRST,
            first_base(shelf, ground),
            graph,
            ground.sampler,
            yardstick,
            rules.device_gates,
            teachers,
            updates,
            training.seed,
        )
        return publish(files, manifest).encode()

    return [Step(TEACHER_EXAM, examine), Step(PUBLISHED, publish_first)]


def load_student(shelf: Shelf, ground: Ground) -> FlowImage:
    return flow_image_of(ground.config_of(ground.training.student), decode_params(shelf.read(STUDENT)))


def first_base(shelf: Shelf, ground: Ground) -> Base:
    training, student = ground.training, load_student(shelf, ground)
    start = start_factors(student.config, training.rank, training.seed + NEXT_SEED * FIRST)
    return Base(student.config, weights_of(student), start, training.alpha, ground.known)


def load_teacher(shelf: Shelf, ground: Ground) -> FlowImage:
    return flow_image_of(ground.config_of(ground.training.teacher), decode_params(shelf.read(TEACHER)))


def load_judge(shelf: Shelf, ground: Ground) -> Judge:
    _, channels, side, _ = ground.train.features.shape
    judge = Judge(channels, side, ground.num_conditions)
    load_weights(judge, decode_params(shelf.read(JUDGE)))
    return judge.eval()


def _trained(name: str, network: Network, ground: Ground, report: Report) -> bytes:
    training, train = ground.training, ground.train
    model = new_flow_image(ground.config_of(network), training.seed)
    base = np.isin(train.conditions, training.base_conditions)
    pretrain(
        model,
        Batch(train.features[base], train.conditions[base]),
        network.steps,
        network.learning_rate,
        training.seed,
        training.batch,
        on_step=lambda step, _: report(name, step + 1, network.steps),
    )
    return encode_params(weights_of(model))


def _quality(model: FlowImage, conditions: Sequence[int], each: int, ground: Ground, shelf: Shelf) -> Quality:
    images, asked = exam(model, conditions, ground.sampler, each, ground.training.seed)
    return assess(images, asked, load_judge(shelf, ground), ground.held_out, ground.known)
