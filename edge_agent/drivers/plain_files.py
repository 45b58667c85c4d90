"""Files that any program may have put there, by plain names, and never through a link to somewhere else."""

import hashlib
import os
import stat
from pathlib import Path

from learning_core.errors import Malformed

MAX_NAME_BYTES = 200  # leaves room for what is added to a name


def read_plain(path: Path, max_bytes: int) -> bytes:
    """A whole file. Raises FileNotFoundError when it is gone, and Malformed."""
    try:
        _check(os.lstat(path), max_bytes)  # before it is opened: opening a device may already do something
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)  # a pipe must not hold us
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(file.fileno())
            _check(about, max_bytes)
            data = file.read(about.st_size + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Malformed(f"the file cannot be read ({error.strerror})") from error
    if len(data) != about.st_size:
        raise Malformed("it changed while it was read; write it under another name, then rename it")
    return data


def is_plain_name(name: str) -> bool:
    """Whether a file may keep its name: one folder's own, visible, of characters that can be shown and stored."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:  # bytes that are no text
        return False
    return 0 < size <= MAX_NAME_BYTES and not name.startswith(".") and "/" not in name and name.isprintable()


def plain_name(name: str) -> str:
    """The name, or a made-up one where it cannot be kept; always the same for the same."""
    if is_plain_name(name):
        return name
    return f"renamed-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def move_within(folder: Path, name: str, subfolder: str, new_name: str) -> None:
    """Rename into a folder inside this one that is no link. Raises OSError."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        there = os.open(subfolder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            os.replace(name, new_name, src_dir_fd=here, dst_dir_fd=there)
        finally:
            os.close(there)
    finally:
        os.close(here)


def write_within(folder: Path, name: str, data: bytes) -> None:
    """Write a small file anew, readable by its owner alone, in a folder that is no link. Raises OSError."""
    there = open_folder(folder)
    try:
        draft = f".{name}.draft"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o600, dir_fd=there), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, name, src_dir_fd=there, dst_dir_fd=there)
        os.fsync(there)
    finally:
        os.close(there)


def open_folder(folder: Path) -> int:
    """A folder that is no link, as a handle to be closed. Raises OSError."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _check(about: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise Malformed("it is not a plain file")
    if about.st_size > max_bytes:
        raise Malformed(f"it takes {about.st_size} bytes, more than the {max_bytes} allowed")
