"""Fetches releases from the fog and believes none before its signature, sums and golden set fit.

The fog is an untrusted mirror: what it gives is written to `<version>.partial` and only renamed when it is whole.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

from edge_agent.drivers.fog_http import FogHttp
from edge_agent.drivers.onnx_engine import load_release
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.examination import measure
from edge_agent.guard import RollBack, sound
from edge_agent.ports import Release
from learning_core.errors import Malformed, StateError, Tampered
from learning_core.params import Params
from learning_core.params import digest as digest_of_params
from protos.codec import decode_params, encode_params
from protos.release import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Manifest,
    verify_file,
    verify_manifest,
    verify_release,
)
from protos.state_folder import write_atomically

log = logging.getLogger(__name__)
SPOILED_S = 600.0  # a mirror that gave wrong bytes is asked again after this: the release itself may be sound


class Unsound(Tampered):
    """A release that is what its maker signed and still not fit to be served."""


class ReleaseClient:
    """The releases on this device: `<folder>/<version>`. Saved as these folders and the journal's bans."""

    def __init__(
        self,
        http: FogHttp,
        folder: Path,
        release_key: bytes,
        journal: SqliteJournal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._folder = folder
        self._key = release_key
        self._journal = journal
        self._clock = clock

    def install(self, version: int, digest: str) -> Release:
        """Fetch, verify, load and try a release. Refused ones are banned. Raises DewfallError; then nothing changed."""
        if (reason := self.ban_on(digest)) is not None:
            raise Tampered(f"release {version} is banned: {reason}")
        try:
            folder = self._fetch(version, digest)
            return self._tried(folder)
        except Unsound as error:
            self._journal.ban(digest, str(error), None)
            shutil.rmtree(self._folder / str(version), ignore_errors=True)
            raise
        except (Tampered, Malformed) as error:
            self._journal.ban(digest, str(error), self._clock() + SPOILED_S)
            raise

    def load(self, version: int) -> Release:
        """A release that was installed before, verified again. Raises Tampered or Malformed."""
        folder = self._folder / str(version)
        try:
            manifest = verify_release(folder, self._key)
        except OSError as error:
            raise Tampered(f"release {version} in {folder} cannot be read ({error.strerror})") from error
        return load_release(folder, manifest, _digest(folder))

    def set_aside(self, version: int) -> str:
        """Move a release that was changed out of the way, for a person to look at."""
        aside = self._folder / f"{version}.refused"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            (self._folder / str(version)).replace(aside)
        except OSError as error:
            raise StateError(f"{self._folder} cannot be changed ({error.strerror}); make it writable") from error
        return str(aside)

    def versions(self) -> list[int]:
        """What is installed, newest first."""
        if not self._folder.is_dir():
            return []
        return sorted((int(entry.name) for entry in self._folder.iterdir() if entry.name.isdigit()), reverse=True)

    def digest_of(self, version: int) -> str | None:
        """sha256 of the manifest of one that is installed."""
        try:
            return _digest(self._folder / str(version))
        except OSError:
            return None

    def prune(self, kept: Collection[int]) -> None:
        """Keep these releases and what was learned on them."""
        for version in set(self.versions()) - set(kept):
            shutil.rmtree(self._folder / str(version), ignore_errors=True)
        for partial in self._folder.glob("*.partial"):  # a newer one goes on where it stopped
            if partial.stem.isdecimal() and int(partial.stem) <= max(kept, default=0):
                shutil.rmtree(partial, ignore_errors=True)
        for path in self._folder.glob("*-*.*"):
            if path.name.partition("-")[0] not in {str(version) for version in kept}:
                path.unlink(missing_ok=True)

    def ban_on(self, digest: str) -> str | None:
        return self._journal.ban_on(digest, self._clock())

    def adapter(self, release: Release, kind: str, name: str) -> Params | None:
        """What this device learned on a release, by its digest; one that was changed is as good as none."""
        try:
            adapter = decode_params(
                self._adapter_path(release, kind, name).read_bytes(), release.manifest.adapter_shapes
            )
        except FileNotFoundError:
            return None
        except (OSError, Malformed) as error:
            log.warning("a %s adapter of release %d is left out: %s", kind, release.version, error)
            return None
        return adapter if digest_of_params(adapter) == name else None

    def keep_adapter(self, release: Release, kind: str, adapter: Params) -> str:
        """Its digest, by which it is found again."""
        name = digest_of_params(adapter)
        write_atomically(self._adapter_path(release, kind, name), encode_params(adapter))
        return name

    def keep_only(self, release: Release, kind: str, names: Collection[str]) -> None:
        """Remove all other adapters of a kind that were learned on a release."""
        kept = {self._adapter_path(release, kind, name) for name in names}
        for path in self._folder.glob(f"{_prefix(release)}*.{kind}"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def drop(self, kind: str) -> None:
        """Remove all adapters of a kind, of every release."""
        for path in self._folder.glob(f"*.{kind}"):
            path.unlink(missing_ok=True)

    def _adapter_path(self, release: Release, kind: str, name: str) -> Path:
        return self._folder / f"{_prefix(release)}{name}.{kind}"

    def _fetch(self, version: int, digest: str) -> Path:
        """The release's folder, whole and verified. What a broken download left is used again."""
        folder, partial = self._folder / str(version), self._folder / f"{version}.partial"
        if folder.exists() and _digest(folder) == digest:
            verify_release(folder, self._key)
            return folder
        partial.mkdir(parents=True, exist_ok=True)
        manifest = self._manifest(version, digest, partial)
        for stranger in {entry.name for entry in partial.iterdir()} - {MANIFEST, SIGNATURE, *manifest.files}:
            (partial / stranger).unlink()
        for name, wanted in manifest.files.items():
            if not _is_there(partial / name, manifest):
                self._http.download(version, name, partial / name, wanted.size)
                try:
                    verify_file(partial / name, wanted)
                except Tampered:
                    (partial / name).unlink(missing_ok=True)
                    raise
        verify_release(partial, self._key)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        return folder

    def _manifest(self, version: int, digest: str, partial: Path) -> Manifest:
        for name, size in ((MANIFEST, MAX_MANIFEST_BYTES), (SIGNATURE, 64)):
            self._http.download(version, name, partial / name, size)
        data = (partial / MANIFEST).read_bytes()
        manifest = verify_manifest(data, (partial / SIGNATURE).read_bytes(), self._key)
        if hashlib.sha256(data).hexdigest() != digest or manifest.version != version:
            raise Tampered(f"the fog announced release {version} and gave another one; look at the fog's mirror")
        return manifest

    def _tried(self, folder: Path) -> Release:
        """Load it and let the base draw the golden set before anybody is served by it."""
        manifest = verify_release(folder, self._key)
        release = load_release(folder, manifest, _digest(folder))
        figures = measure(release.engine, release.judge, release.golden, manifest.steps, manifest.guidance)
        checked = sound(figures, release.golden, manifest)
        if isinstance(checked, RollBack):
            raise Unsound(f"release {manifest.version} fails its golden set here: {'; '.join(checked.reasons)}")
        log.info("release %d is sound: fidelity %.3f, KID %.3f", manifest.version, figures.fidelity, figures.kid)
        return release


def _is_there(path: Path, manifest: Manifest) -> bool:
    try:
        verify_file(path, manifest.files[path.name])
    except Tampered:
        return False
    return True


def _prefix(release: Release) -> str:
    return f"{release.version}-{release.digest[:16]}-"


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
