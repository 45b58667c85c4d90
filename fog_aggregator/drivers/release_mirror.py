"""Releases on this fog's disk: fetched from the cloud, verified with its public key, and only then visible.

The fog is an untrusted mirror: devices verify again. Files arrive in a hidden draft folder, which becomes the release
by one rename.
"""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from fog_aggregator.plans import Mirrored
from fog_aggregator.ports import Cloud
from learning_core.errors import Malformed, StateError, Tampered
from learning_core.params import Shapes
from protos.release import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileSum,
    Manifest,
    verify_file,
    verify_manifest,
    verify_release,
)
from protos.state_folder import settle, write_atomically

log = logging.getLogger("dewfall.fog")
_KEPT = 2  # a device may still be fetching the release before the newest
_SIGNATURE_BYTES = 64


class ReleaseMirror:
    """The newest verified releases below `folder`; saved as the folders in it."""

    def __init__(self, folder: Path, release_key: bytes, reached: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._key = release_key
        self._reached = reached
        self._lock = threading.Lock()
        self._found: dict[int, tuple[Mirrored, Manifest]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name.isdecimal():
                self._show(path)

    def latest(self) -> tuple[Mirrored, Shapes] | None:
        with self._lock:
            if not self._found:
                return None
            mirrored, manifest = self._found[max(self._found)]
        return mirrored, manifest.adapter_shapes

    def file(self, version: int, name: str) -> Path | None:
        """The path of a file the release's manifest names (or the manifest itself); None for anything else."""
        with self._lock:
            found = self._found.get(version)
        if found is None or name not in {MANIFEST, SIGNATURE, *found[1].files}:
            return None
        return self._folder / str(version) / name

    def install(self, release: Mirrored, cloud: Cloud) -> None:
        """Fetch, verify, and only then show; goes on where a broken transfer stopped. Raises LinkDown or Tampered."""
        draft = self._folder / f".{release.version}.draft"
        try:
            draft.mkdir(exist_ok=True)
            manifest = self._fetch_manifest(release, draft, cloud)
            for name, expected in manifest.files.items():
                _fetch_file(draft / name, release.version, expected, cloud)
                self._reached("release.file")
            for odd in set(os.listdir(draft)) - {MANIFEST, SIGNATURE, *manifest.files}:
                (draft / odd).unlink()
            verify_release(draft, self._key)
            self._reached("release.verified")
            target = self._folder / str(release.version)
            shutil.rmtree(target, ignore_errors=True)  # damaged, or it would have been found at the start
            draft.rename(target)
            settle(self._folder)
        except OSError as error:
            raise StateError(f"{self._folder} cannot be written ({error.strerror}); check the disk it is on") from error
        self._show(target)
        self._forget_old()

    def _fetch_manifest(self, release: Mirrored, draft: Path, cloud: Cloud) -> Manifest:
        data = _fetch_small(release.version, MANIFEST, MAX_MANIFEST_BYTES, cloud)
        if hashlib.sha256(data).hexdigest() != release.manifest_sha256:
            raise Tampered(f"the manifest of release {release.version} is not the one the cloud announced")
        signature = _fetch_small(release.version, SIGNATURE, _SIGNATURE_BYTES, cloud)
        manifest = verify_manifest(data, signature, self._key)
        if manifest.version != release.version:
            raise Tampered(f"release {release.version} holds the manifest of release {manifest.version}")
        write_atomically(draft / MANIFEST, data)
        write_atomically(draft / SIGNATURE, signature)
        return manifest

    def _show(self, folder: Path) -> None:
        """Take a folder into the mirror if it is whole; one that is not is fetched again."""
        try:
            manifest = verify_release(folder, self._key)
            digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        except (Tampered, Malformed, OSError) as error:
            log.warning(
                "release %s of the mirror is left out, and will be fetched anew from the cloud: %s", folder.name, error
            )
            return
        if manifest.version == int(folder.name):
            with self._lock:
                self._found[manifest.version] = (Mirrored(manifest.version, digest), manifest)

    def _forget_old(self) -> None:
        with self._lock:
            old = sorted(self._found)[:-_KEPT]
            for version in old:
                del self._found[version]
        for version in old:
            shutil.rmtree(self._folder / str(version), ignore_errors=True)


def _fetch_small(version: int, name: str, max_bytes: int, cloud: Cloud) -> bytes:
    data = b""
    for piece in cloud.fetch(version, name, 0):
        data += piece
        if len(data) > max_bytes:
            raise Tampered(f"{name} of release {version} is larger than it may be")
    return data


def _fetch_file(path: Path, version: int, expected: FileSum, cloud: Cloud) -> None:
    """Continue a file to its full size and compare it; a wrong one is dropped, so that the next try starts anew."""
    held = path.stat().st_size if path.exists() else 0
    if held > expected.size:
        path.unlink()
        held = 0
    with path.open("ab") as file:
        if held < expected.size:
            for piece in cloud.fetch(version, path.name, held):
                held += len(piece)
                if held > expected.size:
                    break
                file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    try:
        verify_file(path, expected)
    except Tampered:
        path.unlink()
        raise
