"""Puts the parts together for the work that needs torch: the first release, and each next one."""

import time
from collections.abc import Sequence

import torch

from cloud_server import founding
from cloud_server.candidate import Task, candidate_steps
from cloud_server.config import Settings, Training
from cloud_server.distillation import Base
from cloud_server.drivers.artefact_folder import ArtefactFolder
from cloud_server.drivers.child import Child
from cloud_server.drivers.digits import NUM_CONDITIONS, load_digits, parted
from cloud_server.drivers.identity import certificate_names, ensure_certificates, ensure_release_key
from cloud_server.drivers.onnx_engine import by_onnxruntime
from cloud_server.drivers.release_folder import ReleaseFolder
from cloud_server.drivers.sqlite_registry import SqliteRegistry
from cloud_server.evaluation import Evaluation, Quality
from cloud_server.exchange import Exchange
from cloud_server.founding import Ground
from cloud_server.measurement import Sampler
from cloud_server.places import ADAPTER, BASE_QUALITY, EVALUATION, JUDGE_GRAPH, PLAN, TEACHER, Places
from cloud_server.ports import ReleaseRow, Report
from cloud_server.releases import Yardstick
from cloud_server.workflow import run
from learning_core.errors import ConfigError, DewfallError
from learning_core.models.flow_image import FlowImageConfig
from learning_core.updates import ModelVersion
from protos.codec import decode_params
from protos.release import START, STUDENT_GRAPH, STUDENT_WEIGHTS
from protos.state_folder import StateFolder


def first_release(settings: Settings, teacher_arguments: Sequence[str], report: Report) -> ReleaseRow:
    """All that `init` does, from wherever it stopped the last time. The teacher is trained by a process beside us."""
    torch.set_num_threads(1)
    places = Places(settings.state)
    with StateFolder.open(settings.state):
        shelf = ArtefactFolder(places.init)
        training = _plan(shelf, settings.training)
        key = ensure_release_key(settings.state)
        ensure_certificates(settings.state, certificate_names(settings.listen), time.time())
        ground = _ground(training, settings)
        beside = None if shelf.has(TEACHER) else Child(teacher_arguments, report)
        try:
            run(founding.student_lane(ground, shelf, by_onnxruntime), shelf, time.monotonic, report)
            if beside is not None and beside.wait() != 0:
                raise DewfallError(f"the teacher was not trained: {beside.last_words() or 'killed'}; run init again")
        finally:
            if beside is not None:
                beside.stop()
        releases = ReleaseFolder(places.releases, key)
        run(founding.final_lane(ground, shelf, releases.publish), shelf, time.monotonic, report)
        evaluation = Evaluation.model_validate_json(shelf.read(EVALUATION))
        return _enter_first(settings, releases, evaluation)


def teacher(settings: Settings, report: Report) -> None:
    """The teacher's lane, in a process of its own."""
    torch.set_num_threads(1)
    shelf = ArtefactFolder(Places(settings.state).init)
    ground = _ground(read_plan(shelf), settings)
    run(founding.teacher_lane(ground), shelf, time.monotonic, report)


def next_release(settings: Settings, made_from: ModelVersion, report: Report) -> None:
    """Make, examine and perhaps write the release after `made_from`; what is done already is not done again."""
    torch.set_num_threads(1)
    places = Places(settings.state)
    with StateFolder.open(places.work(made_from)):
        shelf, beginnings = ArtefactFolder(places.work(made_from)), ArtefactFolder(places.init)
        releases = ReleaseFolder(places.releases, ensure_release_key(settings.state))
        task = _task(settings, made_from, shelf, beginnings, releases)
        run(candidate_steps(task, settings.release, shelf, releases.publish), shelf, time.monotonic, report)


def read_plan(shelf: ArtefactFolder) -> Training:
    """The training settings that `init` began with."""
    return Training.model_validate_json(shelf.read(PLAN))


def _plan(shelf: ArtefactFolder, training: Training) -> Training:
    if not shelf.has(PLAN):
        shelf.write(PLAN, training.model_dump_json(indent=1).encode())
    if read_plan(shelf) != training:
        raise ConfigError(
            "init was begun with other [training] settings; restore those, or start with a new state folder"
        )
    return training


def _ground(training: Training, settings: Settings) -> Ground:
    train, held_out = parted(load_digits(), training.seed, training.hold_out)
    return Ground(training, settings.release, train, held_out, NUM_CONDITIONS)


def _enter_first(settings: Settings, releases: ReleaseFolder, evaluation: Evaluation) -> ReleaseRow:
    manifest = releases.manifest(founding.FIRST)
    sha256 = releases.manifest_sha256(founding.FIRST)
    row = ReleaseRow(founding.FIRST, ModelVersion(0), evaluation, sha256, time.time())
    registry = SqliteRegistry.open(Places(settings.state).registry)
    try:
        Exchange(registry, settings.release, {}, time.time).conclude(row, manifest.adapter_shapes)
    finally:
        registry.close()
    return row


def _task(
    settings: Settings,
    made_from: ModelVersion,
    shelf: ArtefactFolder,
    beginnings: ArtefactFolder,
    releases: ReleaseFolder,
) -> Task:
    training, base_version = read_plan(beginnings), made_from.release
    ground = _ground(training, settings)
    manifest = releases.manifest(base_version)
    base = Base(
        FlowImageConfig(**{name: int(value) for name, value in manifest.model.items()}),
        decode_params(releases.read(base_version, STUDENT_WEIGHTS)),
        decode_params(releases.read(base_version, START)),
        manifest.alpha,
        manifest.known_conditions,
    )
    return Task(
        version=base_version + 1,
        base=base,
        base_graph=releases.read(base_version, STUDENT_GRAPH),
        base_sampler=Sampler(manifest.steps, manifest.guidance),
        base_quality=Quality.model_validate_json(shelf.read(BASE_QUALITY)),
        adapter=decode_params(shelf.read(ADAPTER), manifest.adapter_shapes),
        teacher=founding.load_teacher(beginnings, ground),
        teacher_known=training.base_conditions,
        yardstick=Yardstick(
            founding.load_judge(beginnings, ground),
            beginnings.read(JUDGE_GRAPH),
            ground.held_out,
            settings.release.golden_images,
        ),
        seed=training.seed,
    )
