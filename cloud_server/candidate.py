"""The next release, step by step: merge what was learned, make a pool, distil, examine, publish or keep back."""

from dataclasses import dataclass

from cloud_server.config import Release
from cloud_server.distillation import Base, Speaker, distil, merged, pool, speakers
from cloud_server.evaluation import Evaluation, Quality, known_after, verdict
from cloud_server.healthy import decode_updates, encode_updates, healthy_updates
from cloud_server.measurement import Sampler, assess, exam
from cloud_server.places import DISTILLED, EVALUATION, HEALTHY, MERGED, POOL, PUBLISHED
from cloud_server.ports import Publish, Report, Shelf
from cloud_server.releases import NEXT_SEED, Yardstick, compose
from cloud_server.workflow import Step
from learning_core.models.flow_image import FlowImage, flow_image_of
from learning_core.models.lora import start_factors
from learning_core.models.weights import weights_of
from learning_core.params import Params
from learning_core.samples import Batch
from protos.codec import decode_params, decode_tensors, encode_params, encode_tensors


@dataclass(frozen=True, slots=True)
class Task:
    """A release, what the fleet taught its adapter, and what is needed to make the next one of it."""

    version: int  # of the release to be made
    base: Base
    base_graph: bytes
    base_sampler: Sampler
    base_quality: Quality
    adapter: Params
    teacher: FlowImage
    teacher_known: tuple[int, ...]
    yardstick: Yardstick
    seed: int


def candidate_steps(task: Task, rules: Release, shelf: Shelf, publish: Publish) -> list[Step]:
    config, seed = task.base.config, task.seed + NEXT_SEED * task.version
    sampler = Sampler(rules.sampler_steps, rules.distilled_guidance)

    def who_speaks() -> list[Speaker]:
        taught = Sampler(rules.sampler_steps, rules.guidance)
        learned_sampler = Sampler(rules.sampler_steps, rules.pool_guidance)
        learned = decode_params(shelf.read(MERGED))
        return speakers(
            task.base, task.base_sampler, task.teacher, task.teacher_known, learned, taught, learned_sampler
        )

    def made(evaluation: Evaluation) -> Base:
        start = start_factors(config, len(next(iter(task.base.start.values()))), seed)
        return Base(config, decode_params(shelf.read(DISTILLED)), start, task.base.alpha, evaluation.known)

    def learn_on_it(_: Report) -> bytes:
        evaluation = Evaluation.model_validate_json(shelf.read(EVALUATION))
        if not evaluation.publish:
            return b""
        return encode_updates(healthy_updates(made(evaluation), task.yardstick.held_out, seed))

    def make_pool(_: Report) -> bytes:
        samples = pool(who_speaks(), rules.pool_size, seed)
        return encode_tensors({"features": samples.features, "conditions": samples.conditions})

    def make_student(report: Report) -> bytes:
        found = decode_tensors(shelf.read(POOL))
        samples = Batch(found["features"], found["conditions"])
        weights = decode_params(shelf.read(MERGED))
        student = distil(config, weights, samples, rules.distil_steps, rules.distil_learning_rate, seed, report)
        return encode_params(weights_of(student))

    def examine(_: Report) -> bytes:
        student = flow_image_of(config, decode_params(shelf.read(DISTILLED)))
        images, asked = exam(student, range(config.num_conditions), sampler, rules.images_per_condition, task.seed)
        judge, held_out = task.yardstick.judge, task.yardstick.held_out
        quality = assess(images, asked, judge, held_out, task.base.known)
        found = verdict(task.base_quality, quality, task.base.known, rules.gates)
        known = known_after(quality, task.base.known, rules.gates)
        evaluation = Evaluation(
            quality=quality,
            publish=found.publish,
            reasons=found.reasons,
            known=known,
            as_base=assess(images, asked, judge, held_out, known),
        )
        return evaluation.model_dump_json(indent=1).encode()

    def publish_it(_: Report) -> bytes:
        evaluation = Evaluation.model_validate_json(shelf.read(EVALUATION))
        if not evaluation.publish:
            return b""
        files, manifest = compose(
            task.version,
            made(evaluation),
            task.base_graph,
            sampler,
            task.yardstick,
            rules.device_gates,
            who_speaks(),
            decode_updates(shelf.read(HEALTHY)),
            seed,
        )
        return publish(files, manifest).encode()

    return [
        Step(MERGED, lambda _: encode_params(merged(task.base, task.adapter))),
        Step(POOL, make_pool),
        Step(DISTILLED, make_student),
        Step(EVALUATION, examine),
        Step(HEALTHY, learn_on_it),
        Step(PUBLISHED, publish_it),
    ]
