"""What goes into a release."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_server.config import DeviceGates
from cloud_server.distillation import Base, Speaker, spoken
from cloud_server.healthy import Onlooker, healthy_harms
from cloud_server.measurement import Sampler, golden_set, opinion
from learning_core.models.flow_image import flow_image_of
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes
from learning_core.models.onnx_export import NotAlike, export_int8_student, reweight
from learning_core.params import Params
from learning_core.samples import Batch
from protos.codec import encode_params, encode_tensors
from protos.release import (
    GOLDEN,
    JUDGE_GRAPH,
    REMOTE,
    START,
    STUDENT_GRAPH,
    STUDENT_INT8,
    STUDENT_WEIGHTS,
    Manifest,
    Variant,
    usual,
)

FAMILY = "flow_image"
FEW = 0.4  # of the usual steps
NEXT_SEED = 1000  # between the random streams of one release and the next


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What generated images are compared with, and how many are drawn for the devices' golden set."""

    judge: Judge
    judge_graph: bytes
    held_out: Batch
    golden_images: int


def compose(
    version: int,
    base: Base,
    student_graph: bytes,
    sampler: Sampler,
    yardstick: Yardstick,
    gates: DeviceGates,
    teachers: Sequence[Speaker],
    updates: Sequence[Params],
    seed: int,
) -> tuple[dict[str, bytes], Manifest]:
    """All files of a release and its manifest, without the sums. `student_graph`: of any student of these sizes.

    `teachers` say what the golden noise ought to become; `updates` are what honest devices make of this base.
    """
    student = flow_image_of(base.config, base.weights)
    files = {
        STUDENT_GRAPH: reweight(student_graph, base.weights),
        STUDENT_WEIGHTS: encode_params(base.weights),
        START: encode_params(base.start),
        JUDGE_GRAPH: yardstick.judge_graph,
    }
    with contextlib.suppress(NotAlike):  # then devices do with float32
        files[STUDENT_INT8] = export_int8_student(student, _rank(base), base.alpha, yardstick.held_out)
    manifest = _manifest(version, base, sampler, gates, files.keys())
    golden = _golden(base, sampler, yardstick, teachers, updates, manifest.variants, seed)
    return files | {GOLDEN: encode_tensors(golden)}, manifest


def _golden(
    base: Base,
    sampler: Sampler,
    yardstick: Yardstick,
    teachers: Sequence[Speaker],
    updates: Sequence[Params],
    variants: Sequence[Variant],
    seed: int,
) -> Mapping[str, NDArray[np.float32] | NDArray[np.int64]]:
    """See `edge_agent.examination.golden_set`, which reads it."""
    judge, held_out, student = yardstick.judge, yardstick.held_out, flow_image_of(base.config, base.weights)
    golden = golden_set(student, judge, held_out, base.known, sampler, yardstick.golden_images, seed)
    noise, asked = golden["noise"].astype(np.float32), golden["conditions"].astype(np.int64)
    teacher = spoken(teachers, noise, asked)
    real = golden["real_features"].astype(np.float32)
    settings = [Sampler(each.steps, each.guidance) for each in variants if not each.is_remote]
    different, seen = list(dict.fromkeys(settings)), opinion(judge, teacher)[1]
    onlookers = [Onlooker(judge, each, noise, asked, real, seen) for each in different]
    healthy = healthy_harms(base, onlookers, held_out, updates, seed)
    return golden | {"teacher": teacher, "healthy": healthy[[different.index(each) for each in settings]]}


def _manifest(version: int, base: Base, sampler: Sampler, gates: DeviceGates, graphs: Collection[str]) -> Manifest:
    rank = _rank(base)
    sizes: Mapping[str, int] = asdict(base.config)
    return Manifest(
        version=version,
        family=FAMILY,
        model=sizes,
        rank=rank,
        alpha=base.alpha,
        adapter_shapes=adapter_shapes(base.config, rank, base.known),
        steps=sampler.steps,
        guidance=sampler.guidance,
        known_conditions=base.known,
        num_conditions=base.config.num_conditions,
        max_fidelity_drop=gates.max_fidelity_drop,
        max_kid_rise=gates.max_kid_rise,
        max_out_of_range=gates.max_out_of_range,
        variants=variants_of(sampler, graphs),
    )


def variants_of(sampler: Sampler, graphs: Collection[str]) -> tuple[Variant, ...]:
    """The usual one; the same in integers; fewer steps; fewer steps of one pass each, without guidance; a fog's.

    Those whose graph is among `graphs`, and none that another one is already. What each is
    worth and takes is for the devices to measure: one that is no better at anything is never chosen there.
    """
    steps, guidance, few = sampler.steps, sampler.guidance, max(1, round(FEW * sampler.steps))
    ways = (
        usual(steps, guidance),
        Variant("int8", STUDENT_INT8, steps, guidance),
        Variant("few_step", STUDENT_GRAPH, few, guidance),
        Variant("one_pass", STUDENT_GRAPH, few, 1.0),
        Variant("fog_teacher", f"{REMOTE}teacher", steps, guidance),
    )
    different: dict[tuple[str, int, float], Variant] = {}
    for way in ways:
        if way.graph in graphs or way.is_remote:
            different.setdefault((way.graph, way.steps, way.guidance), way)
    return tuple(different.values())


def _rank(base: Base) -> int:
    return len(next(iter(base.start.values())))
