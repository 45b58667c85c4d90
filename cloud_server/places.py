"""Where things are in the cloud's state folder."""

from dataclasses import dataclass
from pathlib import Path

from learning_core.updates import ModelVersion

PLAN = "plan.json"
# what a new release is made of, as the serving process lays it out, and the artefacts of making it
ADAPTER, BASE_QUALITY = "adapter.safetensors", "base_quality.json"
MERGED, POOL, DISTILLED = "merged.safetensors", "pool.safetensors", "distilled.safetensors"
EVALUATION, PUBLISHED = "evaluation.json", "published"
HEALTHY = "healthy.safetensors"  # what honest devices make of a release, before anybody has it
CANDIDATE_STEPS = (MERGED, POOL, DISTILLED, EVALUATION, HEALTHY, PUBLISHED)
# the artefacts of the first release, which ends with the last two as well
JUDGE, TEACHER, STUDENT = "judge.safetensors", "teacher.safetensors", "student.safetensors"
JUDGE_GRAPH, STUDENT_GRAPH, TEACHER_EXAM = "judge.onnx", "student.onnx", "teacher.json"
INIT_STEPS = (
    JUDGE,
    JUDGE_GRAPH,
    STUDENT,
    STUDENT_GRAPH,
    TEACHER,
    EVALUATION,
    HEALTHY,
    TEACHER_EXAM,
    PUBLISHED,
)


@dataclass(frozen=True, slots=True)
class Places:
    """`work` holds one folder for each shared version a release was, or is being, made from."""

    state: Path

    @property
    def registry(self) -> Path:
        return self.state / "registry.sqlite"

    @property
    def init(self) -> Path:
        return self.state / "init"

    @property
    def releases(self) -> Path:
        return self.state / "releases"

    @property
    def status(self) -> Path:
        return self.state / "status.json"

    def work(self, made_from: ModelVersion) -> Path:
        return self.state / "work" / str(made_from)
