"""Forgetting samples so that no file of the agent holds a byte of them: spool, learner's jobs, database and its log.

What it cannot reach: the weights of an adapter that learned from them, and blocks a disk has freed but not overwritten.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.spool_source import SUFFIX, read_plain
from edge_agent.drivers.sqlite_memory import ERASING, SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.selection import Everything, Forgotten, OneClass, OneSample, Selection
from learning_core.errors import ConfigError, DewfallError, Malformed, StateError
from learning_core.params import Array
from protos.codec import MAX_BYTES, decode_tensors, encode_tensors
from protos.state_folder import StateFolder, settle, write_atomically

log = logging.getLogger(__name__)


def forget(selection: Selection, state: Path, spool: Path, database: Database) -> Forgotten:
    """Files first, so that nothing comes back from them. Nobody else may use the state meanwhile.

    Killed at any moment, it has done a part, and `finish_forgetting` or the same call again does the rest. Raises
    DewfallError.
    """
    memory = SqliteMemory(database)
    features = memory.features(selection.key) if isinstance(selection, OneSample) else None
    if isinstance(selection, OneSample) and features is None:
        raise DewfallError(f"no sample {selection.key} is kept; `samples` lists the keys of those that are")
    try:
        changed, unread = _sweep(spool, selection, features, memory)
        if (state / "learning").exists():
            shutil.rmtree(state / "learning")
    except OSError as error:
        text = f"{error.filename} cannot be removed ({error.strerror}); make it writable and ask again"
        raise StateError(text) from error
    samples = memory.forget(selection)
    finish_forgetting(database)
    return Forgotten(samples, changed, unread)


def finish_forgetting(database: Database) -> None:
    """Remove the traces of what was forgotten, unless that was done. Raises StateError, to be tried again."""
    if database.fact(ERASING):
        database.erase()
        database.set_fact(ERASING, False)


def resume_forgetting(database: Database) -> None:
    """Finish what a kill or a full disk broke off, if that is possible now."""
    try:
        finish_forgetting(database)
    except StateError as error:
        log.warning("traces of forgotten samples are still on the disk: %s", error)


def forget_without_agent(selection: Selection, state: Path, spool: Path) -> Forgotten:
    """The same on the state of an agent that does not run. Raises DewfallError."""
    if not (state / "agent.db").is_file():
        raise ConfigError(f"there is no agent's state in {state}; name the folder that holds agent.db")
    with StateFolder.open(state), closing(Database(state / "agent.db")) as database:
        return forget(selection, state, spool, database)


def _sweep(spool: Path, selection: Selection, features: Array | None, memory: SqliteMemory) -> tuple[int, list[str]]:
    """How many files of the spool were changed or removed, and which cannot be told."""
    changed, unread = 0, []
    for path in _files(spool, drafts=isinstance(selection, Everything)):
        try:
            changed += _without(path, selection, features, memory)
        except FileNotFoundError:
            continue  # whoever put it there has taken it away
        except Malformed:
            unread.append(str(path.relative_to(spool)))
    for folder in (spool, spool / "refused"):
        if folder.is_dir():
            settle(folder)
    return changed, unread


def _files(spool: Path, drafts: bool) -> Iterator[Path]:
    """What waits and what was refused; a draft belongs to whoever writes it, until all is to go."""
    for folder in (spool, spool / "refused"):
        yield from sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.is_dir())
        if drafts:
            yield from sorted(folder.glob(f".*{SUFFIX}.draft"))


def _without(path: Path, selection: Selection, features: Array | None, memory: SqliteMemory) -> bool:
    """Leave in a file only what is not to be forgotten; whether that changed it. Raises Malformed."""
    if isinstance(selection, Everything):
        _remove(path, memory)
        return True
    data = read_plain(path, MAX_BYTES)
    try:
        tensors = decode_tensors(data)
        gone = _selected(tensors, selection, features)
    except Malformed:
        if features is None or features.tobytes() not in data:
            raise
        _remove(path, memory)
        return True
    if not gone.any():
        return False
    if gone.all() or memory.knows(path.name, hashlib.sha256(data).hexdigest()):  # taken in: it was to go anyway
        _remove(path, memory)
        return True
    count = len(gone)
    left = {name: value[~gone] if value.shape[:1] == (count,) else value for name, value in tensors.items()}
    write_atomically(path, encode_tensors(left))
    return True


def _selected(
    tensors: dict[str, NDArray[np.generic]], selection: OneSample | OneClass, features: Array | None
) -> NDArray[np.bool_]:
    """[N], which rows of a file are meant. Raises Malformed."""
    rows, conditions = tensors.get("features"), tensors.get("conditions")
    if isinstance(selection, OneClass):
        if conditions is None or conditions.ndim != 1:
            raise Malformed("a file without conditions does not tell which classes it holds")
        return np.asarray(conditions == selection.condition)
    if rows is None or rows.ndim == 0:
        raise Malformed("a file without features does not tell which samples it holds")
    wanted = features.tobytes() if features is not None else None
    return np.array([row.tobytes() == wanted for row in rows], bool)


def _remove(path: Path, memory: SqliteMemory) -> None:
    path.unlink()
    memory.forget_arrival(path.name)
