"""What goes into a release."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from cloud_server.config import DeviceGates
from cloud_server.distillation import Base
from cloud_server.measurement import Sampler, golden_set
from learning_core.models.flow_image import flow_image_of
from learning_core.models.judge import Judge
from learning_core.models.lora import adapter_shapes
from learning_core.models.onnx_export import reweight
from learning_core.samples import Batch
from protos.codec import encode_params, encode_tensors
from protos.release import GOLDEN, JUDGE_GRAPH, START, STUDENT_GRAPH, STUDENT_WEIGHTS, Manifest

FAMILY = "flow_image"
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
    seed: int,
) -> tuple[dict[str, bytes], Manifest]:
    """All files of a release and its manifest, without the sums. `student_graph`: of any student of these sizes."""
    golden = golden_set(
        flow_image_of(base.config, base.weights),
        yardstick.judge,
        yardstick.held_out,
        base.known,
        sampler,
        yardstick.golden_images,
        seed,
    )
    files = {
        STUDENT_GRAPH: reweight(student_graph, base.weights),
        STUDENT_WEIGHTS: encode_params(base.weights),
        START: encode_params(base.start),
        JUDGE_GRAPH: yardstick.judge_graph,
        GOLDEN: encode_tensors(golden),
    }
    return files, _manifest(version, base, sampler, gates)


def _manifest(version: int, base: Base, sampler: Sampler, gates: DeviceGates) -> Manifest:
    rank = len(next(iter(base.start.values())))
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
    )
