"""The first release, step by step: a judge, a teacher, a student, their exam.

Teacher and student only ever see base conditions; the judge sees all, because it is the yardstick and never trains
anything.
"""

import numpy as np

from cloud_server.config import Network, Release, Training
from cloud_server.distillation import Base
from cloud_server.evaluation import Evaluation
from cloud_server.measurement import Sampler, assess, exam
from cloud_server.places import (
    EVALUATION,
    JUDGE,
    JUDGE_GRAPH,
    PUBLISHED,
    STUDENT,
    STUDENT_GRAPH,
    TEACHER,
    TEACHER_EXAM,
)
from cloud_server.ports import Publish, Report, Shelf
from cloud_server.releases import Yardstick, compose
from cloud_server.workflow import Step
from learning_core.models.flow_image import FlowImage, FlowImageConfig, flow_image_of, new_flow_image
from learning_core.models.judge import Judge, train_judge
from learning_core.models.lora import start_factors
from learning_core.models.onnx_export import export_judge, export_student
from learning_core.models.pretraining import pretrain
from learning_core.models.weights import load_weights, weights_of
from learning_core.samples import Batch
from protos.codec import decode_params, encode_params

FIRST = 1
NEXT_SEED = 1000  # between the random streams of one release and the next


def config_of(network: Network, training: Training, images: Batch, num_conditions: int) -> FlowImageConfig:
    _, channels, side, _ = images.features.shape
    return FlowImageConfig(
        side=side,
        channels=channels,
        patch=training.patch,
        width=network.width,
        depth=network.depth,
        heads=network.heads,
        num_conditions=num_conditions,
    )


def teacher_lane(training: Training, train: Batch, num_conditions: int) -> list[Step]:
    """The long step, which needs nothing of the others."""
    return [Step(TEACHER, lambda report: _trained(TEACHER, training.teacher, training, train, num_conditions, report))]


def student_lane(training: Training, train: Batch, num_conditions: int, shelf: Shelf) -> list[Step]:
    return [
        Step(JUDGE, lambda _: encode_params(weights_of(train_judge(train, num_conditions, training.seed)))),
        Step(JUDGE_GRAPH, lambda _: export_judge(load_judge(shelf, train, num_conditions))),
        Step(STUDENT, lambda report: _trained(STUDENT, training.student, training, train, num_conditions, report)),
        Step(
            STUDENT_GRAPH,
            lambda _: export_student(
                load_student(shelf, training, train, num_conditions), training.rank, training.alpha
            ),
        ),
    ]


def final_lane(
    training: Training, rules: Release, held_out: Batch, num_conditions: int, shelf: Shelf, publish: Publish
) -> list[Step]:
    """Both are examined; the student becomes release 1 however good it is, since there is nothing to compare."""
    sampler = Sampler(rules.sampler_steps, rules.guidance)

    def examine(model: FlowImage) -> bytes:
        images, asked = exam(model, sampler, rules.images_per_condition, training.seed)
        judge = load_judge(shelf, held_out, num_conditions)
        quality = assess(images, asked, judge, held_out, training.base_conditions)
        known = tuple(sorted(training.base_conditions))
        evaluation = Evaluation(
            quality=quality, publish=True, reasons=("it is the first release",), known=known, as_base=quality
        )
        return evaluation.model_dump_json(indent=1).encode()

    def publish_first(_: Report) -> bytes:
        student = load_student(shelf, training, held_out, num_conditions)
        base = Base(
            student.config,
            weights_of(student),
            start_factors(student.config, training.rank, training.seed + NEXT_SEED * FIRST),
            training.alpha,
            tuple(sorted(training.base_conditions)),
        )
        judge = load_judge(shelf, held_out, num_conditions)
        yardstick = Yardstick(judge, shelf.read(JUDGE_GRAPH), held_out, rules.golden_images)
        files, manifest = compose(
            FIRST, base, shelf.read(STUDENT_GRAPH), sampler, yardstick, rules.device_gates, training.seed
        )
        return publish(files, manifest).encode()

    return [
        Step(EVALUATION, lambda _: examine(load_student(shelf, training, held_out, num_conditions))),
        Step(TEACHER_EXAM, lambda _: examine(load_teacher(shelf, training, held_out, num_conditions))),
        Step(PUBLISHED, publish_first),
    ]


def load_student(shelf: Shelf, training: Training, images: Batch, num_conditions: int) -> FlowImage:
    config = config_of(training.student, training, images, num_conditions)
    return flow_image_of(config, decode_params(shelf.read(STUDENT)))


def load_teacher(shelf: Shelf, training: Training, images: Batch, num_conditions: int) -> FlowImage:
    config = config_of(training.teacher, training, images, num_conditions)
    return flow_image_of(config, decode_params(shelf.read(TEACHER)))


def load_judge(shelf: Shelf, images: Batch, num_conditions: int) -> Judge:
    judge = Judge(images.features.shape[1], images.features.shape[2], num_conditions)
    load_weights(judge, decode_params(shelf.read(JUDGE)))
    return judge.eval()


def _trained(
    name: str, network: Network, training: Training, train: Batch, num_conditions: int, report: Report
) -> bytes:
    model = new_flow_image(config_of(network, training, train, num_conditions), training.seed)
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
