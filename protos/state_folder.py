"""The folder a process keeps its state in: one owner at a time, every write whole or not at all."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from learning_core.errors import StateError

MIN_FREE_BYTES = 16 << 20


class StateFolder:
    """Holds a lock on one folder from `open` to `close`; saved as the files in it. A dead owner's lock is free."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create the folder if need be, see that it can be written, and lock it. Raises StateError."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise refusal(path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise StateError(
                f"{path} is in use by another process; stop that one first, or give this one a state folder of its own"
            ) from error
        try:
            if shutil.disk_usage(path).free < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, "no space left")
            write_atomically(path / "probe", b"\0" * 4096)
            (path / "probe").unlink()
        except (OSError, StateError) as error:
            os.close(lock)
            raise (error if isinstance(error, StateError) else refusal(path, error)) from error
        return cls(path, lock)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file as one step that survives a power cut: after it the file is the old or the new one, whole."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        settle(path.parent)
    except OSError as error:
        raise refusal(path.parent, error) from error


def settle(folder: Path) -> None:
    """Returns once the names in a folder are on the disk itself, those removed gone from it. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal(path: Path, error: OSError) -> StateError:
    """What a person is told about a file or folder that cannot be used."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StateError(
                f"the disk that holds {path} is full; free at least {MIN_FREE_BYTES >> 20} MiB and start again"
            )
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return StateError(f"{path} cannot be written; make it writable for this user, or name another state folder")
        case errno.ENOTDIR | errno.EEXIST:
            return StateError(f"{path} is not a folder; name a folder as the state folder")
    return StateError(f"{path} cannot be used as a state folder ({error.strerror}); check the disk it is on")
