"""A shelf of artefacts as files in one folder."""

from pathlib import Path

from learning_core.errors import StateError
from protos.state_folder import write_atomically


class ArtefactFolder:
    """Implements `ports.Shelf`; saved as its files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{path} cannot be made ({error.strerror}); check the disk it is on") from error

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise StateError(f"{self._path / name} cannot be read ({error.strerror}); run the step again") from error

    def write(self, name: str, data: bytes) -> None:
        write_atomically(self._path / name, data)
