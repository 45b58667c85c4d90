"""Where a person finds what was not taken in, each with its reason beside it; the oldest give way to the newest."""

import contextlib
import errno
import logging
import os
from pathlib import Path

from edge_agent.drivers.plain_files import move_within, open_folder, plain_name, write_within
from learning_core.errors import StateError

log = logging.getLogger(__name__)
REFUSED, UNSURE = "refused", "unsure"
REASON = ".reason"
BLOCK = 4096  # what a file takes at least
MAX_BYTES = 64 << 20
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class SetAside:
    """Two folders inside a spool. Saved as the files in them."""

    def __init__(self, spool: Path, max_bytes: int = MAX_BYTES) -> None:
        self._spool = spool
        self._max_bytes = max_bytes
        try:
            spool.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"the spool {spool} cannot be made ({error.strerror}); name another folder"
            raise StateError(text) from error

    def refuse(self, name: str, reason: str) -> None:
        """Move a file of the spool to `refused/`. Raises OSError."""
        kept = plain_name(name)
        self._folder(REFUSED)
        move_within(self._spool, name, REFUSED, kept)
        self._explain(REFUSED, kept, reason)

    def keep(self, name: str, data: bytes, reason: str) -> None:
        """Write a sample whose class nobody knows to `unsure/`.

        Raises StateError when the disk cannot take it, to be tried again; a folder that is not ours is no reason to
        hold up the stream, so the sample is then said to be lost.
        """
        try:
            write_within(self._folder(UNSURE), name, data)
        except OSError as error:
            if error.errno in DISK:
                text = f"{self._spool / UNSURE} cannot be written ({error.strerror}); free disk space"
                raise StateError(text) from error
            log.warning("a sample without a class is lost, since %s: %s", error, reason)
            return
        self._explain(UNSURE, name, reason)

    def _folder(self, name: str) -> Path:
        """Made when it is needed, by the agent: a program that only writes samples must not own it. Raises OSError."""
        folder = self._spool / name
        folder.mkdir(exist_ok=True)
        return folder

    def _explain(self, folder: str, name: str, reason: str) -> None:
        try:
            write_within(self._spool / folder, name + REASON, f"{reason}\n".encode("utf-8", "replace"))
            self._prune()
        except OSError as error:
            log.warning("%s in %s has no reason beside it (%s): %s", name, folder, error.strerror, reason)

    def _prune(self) -> None:
        """Remove what is longest there until the rest fits. Raises OSError."""
        with contextlib.ExitStack() as undo:
            found: list[tuple[int, int, str, int]] = []
            for name in (REFUSED, UNSURE):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the latter: a link to somewhere
                    folder = open_folder(self._spool / name)
                    undo.callback(os.close, folder)
                    with os.scandir(folder) as entries:
                        abouts = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
                    found += [(each.st_ctime_ns, max(BLOCK, each.st_size), name, folder) for name, each in abouts]
            left = sum(size for _, size, _, _ in found)
            for _, size, name, folder in sorted(found):
                if left <= self._max_bytes:
                    return
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                    left -= size
