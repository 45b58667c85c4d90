"""The releases on disk, one folder each."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learning_core.errors import Malformed, Tampered
from protos.release import MANIFEST, SIGNATURE, Manifest, sum_of, verify_release, write_release


class ReleaseFolder:
    """Writes and reads releases under one folder; saved as its files."""

    def __init__(self, path: Path, key: Ed25519PrivateKey) -> None:
        self._path, self._key = path, key
        self._public = key.public_key().public_bytes_raw()

    def publish(self, files: Mapping[str, bytes], draft: Manifest) -> str:
        """Write and sign; sha256 of the manifest. A second time with the same files changes nothing.

        Nobody can fetch a release before the registry names it, so what stands in the way was never published.
        """
        folder = self._path / str(draft.version)
        if not self._holds(folder, files):
            shutil.rmtree(folder, ignore_errors=True)
            write_release(folder, files, draft, self._key)
        return self.manifest_sha256(draft.version)

    def manifest(self, version: int) -> Manifest:
        """Raises Tampered when a file of the release was changed."""
        return verify_release(self._path / str(version), self._public)

    def manifest_sha256(self, version: int) -> str:
        return hashlib.sha256((self._path / str(version) / MANIFEST).read_bytes()).hexdigest()

    def path_of(self, version: int, name: str) -> Path:
        """A file of a release. Raises Malformed when there is none."""
        path = self._path / str(version) / name
        if name not in {MANIFEST, SIGNATURE} and not path.is_file():
            raise Malformed(f"release {version} has no file {name[:80]!r}")
        return path

    def read(self, version: int, name: str) -> bytes:
        return self.path_of(version, name).read_bytes()

    def _holds(self, folder: Path, files: Mapping[str, bytes]) -> bool:
        try:
            present = verify_release(folder, self._public)
        except (Tampered, Malformed):
            return False
        return present.files == {name: sum_of(data) for name, data in files.items()}
