"""Puts the serving process together: registry, exchange, gRPC, and the child that makes the next release."""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cloud_server.config import Settings
from cloud_server.drivers.artefact_folder import ArtefactFolder
from cloud_server.drivers.child import Child
from cloud_server.drivers.doorbell import Doorbell
from cloud_server.drivers.grpc_service import CloudService, start_service
from cloud_server.drivers.identity import certificate_names, ensure_certificates, ensure_release_key
from cloud_server.drivers.memory import rss_mb
from cloud_server.drivers.release_folder import ReleaseFolder
from cloud_server.drivers.sqlite_registry import SqliteRegistry
from cloud_server.drivers.traffic import Traffic
from cloud_server.evaluation import Evaluation
from cloud_server.exchange import Exchange, digest_of_secret
from cloud_server.places import ADAPTER, BASE_QUALITY, CANDIDATE_STEPS, EVALUATION, INIT_STEPS, PUBLISHED, Places
from cloud_server.ports import ReleaseRow
from cloud_server.standing import standing
from cloud_server.workflow import seconds
from learning_core.errors import Malformed, StateError, Tampered
from learning_core.params import Shapes
from learning_core.updates import ModelVersion
from protos.cloud_messages import is_fog_name
from protos.codec import encode_params
from protos.release import Manifest
from protos.state_folder import StateFolder, write_atomically

MAX_ATTEMPTS = 5
STOP_S = 2.0
STATUS_EVERY_S = 2.0
RETRY_S = 1.0


def open_registry(state: Path) -> SqliteRegistry:
    """The registry of an initialised state. Raises StateError."""
    return SqliteRegistry.open(_registry_in(state))


def _registry_in(state: Path) -> Path:
    path = Places(state).registry
    if not path.is_file():
        raise StateError(f"{state} holds no cloud yet; run `python -m cloud_server init` for it first")
    return path


def issue_token(registry: SqliteRegistry, fog: str, valid_hours: float, now_s: float) -> str:
    """A token that enrols one fog once; only its digest is kept."""
    if not is_fog_name(fog):
        raise Malformed(f"{fog!r} cannot be a fog's name; use 1 to 64 letters, digits, dots, dashes and underscores")
    token = secrets.token_urlsafe(24)
    with registry.transaction():
        registry.add_token(digest_of_secret(token), fog, now_s, now_s + 3600 * valid_hours)
        registry.add_audit("token issued", fog, now_s)
    return token


class Cloud:
    """The running cloud. What has to last is in the registry and on the shelves; this is rebuilt at each start."""

    def __init__(
        self, settings: Settings, registry: SqliteRegistry, child_arguments: Sequence[str], bell: Doorbell
    ) -> None:
        self._settings, self._registry, self._child_arguments, self._bell = settings, registry, child_arguments, bell
        self._places = Places(settings.state)
        self._releases = ReleaseFolder(self._places.releases, ensure_release_key(settings.state))
        self._traffic = Traffic()
        self._child: Child | None = None
        self._progress: dict[str, object] | None = None
        self._attempts, self._finished_before, self._retry_at_s, self._written_at_s = 0, 0, 0.0, 0.0
        self.exchange = Exchange(registry, settings.release, self._shapes(), time.time, bell.ring)
        self.port = settings.listen.port

    def run(self, stopping: Callable[[], bool], ready: Callable[[int], None]) -> None:
        """Serve until `stopping`; `ready` gets the port once fogs are answered."""
        listen, state = self._settings.listen, self._settings.state
        keys = ensure_certificates(state, certificate_names(listen), time.time())
        service = CloudService(self.exchange, self._file_of, self._traffic)
        server, self.port = start_service(service, listen.host, listen.port, *keys)
        try:
            self._write_status()
            ready(self.port)
            while not stopping():
                self._turn()
        finally:
            server.stop(STOP_S).wait()
            if self._child is not None:
                self._child.stop()
            self._write_status()

    def _turn(self) -> None:
        """Do what is due, then sleep until something is."""
        again_at_s = self.exchange.tick()
        self._distil()
        now_s = time.time()
        due = [self._written_at_s + STATUS_EVERY_S]
        due += [at_s for at_s in (again_at_s, self._retry_at_s) if at_s is not None and at_s > now_s]
        if self._bell.wait(min(due) - now_s) or time.time() >= due[0]:
            self._write_status()

    def _distil(self) -> None:
        """Start, watch, conclude or give up the child that makes the next release."""
        made_from = self._registry.distilling()
        if made_from is None:
            return
        if self._child is None:
            if time.time() >= self._retry_at_s:
                self._child = self._start_child(made_from)
            return
        if (code := self._child.ended()) is None:
            return
        child, self._child, self._progress = self._child, None, None
        child.stop()
        if code == 0:
            self._attempts = 0
            self._conclude(made_from)
        else:
            self._retry(made_from, f"exit code {code} {child.last_words()}".rstrip())

    def _retry(self, made_from: ModelVersion, reason: str) -> None:
        """Start the child again in a while, unless it failed too often without finishing a step."""
        finished = self._finished(made_from)
        self._attempts = 1 if finished > self._finished_before else self._attempts + 1
        self._retry_at_s = time.time() + RETRY_S * self._attempts
        self._registry.add_audit("distillation interrupted", reason, time.time())
        if self._attempts >= MAX_ATTEMPTS:
            self._attempts = 0
            self.exchange.give_up(reason)

    def _finished(self, made_from: ModelVersion) -> int:
        shelf = ArtefactFolder(self._places.work(made_from))
        return sum(shelf.has(name) for name in CANDIDATE_STEPS)

    def _start_child(self, made_from: ModelVersion) -> Child:
        shelf = ArtefactFolder(self._places.work(made_from))
        base = next(
            row for row in self._registry.releases() if row.version == made_from.release and row.evaluation.publish
        )
        shelf.write(ADAPTER, encode_params(self._registry.shared_adapter(made_from)))
        shelf.write(BASE_QUALITY, base.evaluation.as_base.model_dump_json().encode())
        self._finished_before = self._finished(made_from)
        arguments = ["workflow", *self._child_arguments, "--made-from", str(made_from), "--leashed"]
        return Child(arguments, self._report, self._bell.ring)

    def _report(self, step: str, done: int, of: int) -> None:
        self._progress = {"step": step, "done": done, "of": of}
        if done == of:
            self._bell.ring()

    def _conclude(self, made_from: ModelVersion) -> None:
        """Enter what the child left behind, unless it is not what the child examined."""
        shelf = ArtefactFolder(self._places.work(made_from))
        evaluation = Evaluation.model_validate_json(shelf.read(EVALUATION))
        version, shapes, sha256 = made_from.release + 1, None, ""
        if evaluation.publish:
            try:
                shapes = self._releases.manifest(version).adapter_shapes
                sha256 = self._releases.manifest_sha256(version)
            except (Tampered, Malformed) as error:
                self.exchange.give_up(str(error))
                return
            if sha256.encode() != shelf.read(PUBLISHED):
                self.exchange.give_up(f"the folder of release {version} is not the one that was examined")
                return
        self.exchange.conclude(ReleaseRow(version, made_from, evaluation, sha256, time.time()), shapes)

    def _shapes(self) -> dict[int, Shapes]:
        published = [row for row in self._registry.releases() if row.evaluation.publish]
        if not published:
            raise StateError(
                f"{self._settings.state} has no release yet; let `python -m cloud_server init` finish first"
            )
        return {row.version: self._verified(row.version).adapter_shapes for row in published}

    def _verified(self, version: int) -> Manifest:
        try:
            return self._releases.manifest(version)
        except (Tampered, Malformed) as error:
            raise Tampered(
                f"release {version} was changed since it was published ({error}); restore it from a backup"
            ) from error

    def _file_of(self, version: int, name: str) -> Path:
        self.exchange.shapes_of(version)  # only what is published may be fetched
        return self._releases.path_of(version, name)

    def _write_status(self) -> None:
        phases_s = {"init": seconds(INIT_STEPS, ArtefactFolder(self._places.init))}
        made_from = [row.made_from for row in self._registry.releases() if row.made_from.release]
        for version in [*made_from, *filter(None, [self._registry.distilling()])]:
            phases_s[f"release from {version}"] = seconds(CANDIDATE_STEPS, ArtefactFolder(self._places.work(version)))
        tree = standing(self._registry, self._traffic.counts(), phases_s)
        tree |= {
            "at_s": time.time(),
            "listening_on": [self._settings.listen.host, self.port],
            "progress": self._progress,
            "rss_mb": round(rss_mb(), 1),
        }
        write_atomically(self._places.status, json.dumps(tree, indent=1, allow_nan=False).encode())
        self._written_at_s = time.time()


def serve(
    settings: Settings,
    child_arguments: Sequence[str],
    bell: Doorbell,
    stopping: Callable[[], bool],
    ready: Callable[[int], None],
) -> None:
    """Serve fogs until `stopping`, asked after each ring. `child_arguments` lead a child to the same settings."""
    _registry_in(settings.state)  # before a folder is made for a path that was a slip of the pen
    with StateFolder.open(settings.state):
        registry = open_registry(settings.state)
        try:
            Cloud(settings, registry, child_arguments, bell).run(stopping, ready)
        finally:
            registry.close()
