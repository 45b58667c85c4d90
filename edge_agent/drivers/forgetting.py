"""Forgetting samples so that no file of the agent holds a byte of them: spool, learner's jobs, database and its log.

What it cannot reach: the weights of an adapter that learned from them, and blocks a disk has freed but not overwritten.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.going_back import forget_personal
from edge_agent.drivers.plain_files import read_plain
from edge_agent.drivers.set_aside import REASON, REFUSED, UNSURE
from edge_agent.drivers.spool_source import KNOWN, SUFFIX, normalised, one_image, raw_samples
from edge_agent.drivers.spool_writer import OBSERVED
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_memory import SqliteMemory
from edge_agent.drivers.sqlite_store import Database
from edge_agent.drivers.sqlite_vital import ERASING
from edge_agent.normalise.image_files import SUFFIXES
from edge_agent.normalise.pictures import Span
from edge_agent.normalise.wanted import Conversions
from edge_agent.selection import Everything, Forgotten, OneClass, OneSample, Selection
from edge_agent.slots import PERSONAL
from learning_core.errors import ConfigError, DewfallError, Malformed, StateError
from learning_core.params import Array
from protos.codec import MAX_BYTES, decode_tensors, encode_tensors
from protos.state_folder import StateFolder, settle, write_atomically

log = logging.getLogger(__name__)


def forget(
    selection: Selection, state: Path, spool: Path, database: Database, conversions: Conversions = Conversions()
) -> Forgotten:
    """Files first, so that nothing comes back from them. Nobody else may use the state meanwhile.

    Killed at any moment, it has done a part, and `finish_forgetting` or the same call again does the rest. Raises
    DewfallError.
    """
    memory = SqliteMemory(database)
    features = memory.features(selection.key) if isinstance(selection, OneSample) else None
    if isinstance(selection, OneSample) and features is None:
        raise DewfallError(f"no sample {selection.key} is kept; `samples` lists the keys of those that are")
    try:
        changed, unread = _sweep(spool, selection, features, memory, conversions)
        for jobs in ("learning", "offload", "personal"):
            if (state / jobs).exists():
                shutil.rmtree(state / jobs)
        if isinstance(selection, Everything):
            forget_personal(state, database)
            for draft in (state / "releases").glob(f"*.{PERSONAL}.draft"):
                draft.unlink()
    except OSError as error:
        text = f"{error.filename} cannot be removed ({error.strerror}); make it writable and ask again"
        raise StateError(text) from error
    samples = memory.forget(selection)
    finish_forgetting(database)
    return Forgotten(samples, changed, unread, len(SqliteJournal(database).far_jobs()))


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


def forget_without_agent(
    selection: Selection, state: Path, spool: Path, conversions: Conversions = Conversions()
) -> Forgotten:
    """The same on the state of an agent that does not run. Raises DewfallError."""
    if not (state / "agent.db").is_file():
        raise ConfigError(f"there is no agent's state in {state}; name the folder that holds agent.db")
    with StateFolder.open(state), closing(Database(state / "agent.db")) as database:
        return forget(selection, state, spool, database, conversions)


def _sweep(
    spool: Path, selection: Selection, features: Array | None, memory: SqliteMemory, conversions: Conversions
) -> tuple[int, list[str]]:
    """How many files of the spool were changed or removed, and which may hold more and do not let one tell."""
    changed, unread = 0, []
    for path in _files(spool, everything=isinstance(selection, Everything)):
        is_left = path.parent != spool and path.name.startswith(".")  # half written, by us, when a kill came
        try:
            did, is_told = _without(path, Everything() if is_left else selection, features, memory, conversions)
        except FileNotFoundError:
            continue  # whoever put it there has taken it away
        except Malformed:
            did, is_told = False, False
        changed += did
        unread += [] if is_told else [str(path.relative_to(spool))]
    for folder in _folders(spool):
        if folder.is_dir():
            settle(folder)
    return changed, unread


def _folders(spool: Path) -> tuple[Path, ...]:
    """A link in the place of one leads out of the spool, and nothing of ours is there."""
    return spool, *(folder for folder in (spool / REFUSED, spool / UNSURE) if not folder.is_symlink())


def _files(spool: Path, everything: bool) -> Iterator[Path]:
    """What waits and what was set aside; in the spool another's draft is that other's, until all is to go."""
    for folder in _folders(spool):
        for path in sorted(folder.glob("*")):
            is_another = folder == spool and path.name.startswith(".") and not path.name.startswith(f".{OBSERVED}")
            is_one = folder != spool or path.name.endswith((SUFFIX, *SUFFIXES, f"{SUFFIX}.draft"))
            if is_one and not path.is_dir() and path.suffix != REASON and (everything or not is_another):
                yield path


def _without(
    path: Path, selection: Selection, features: Array | None, memory: SqliteMemory, conversions: Conversions
) -> tuple[bool, bool]:
    """Leave in a file only what is not to be forgotten; whether that changed it, and whether all of it can be told.

    Raises Malformed.
    """
    if isinstance(selection, Everything):
        _remove(path, memory)
        return True, True
    data = read_plain(path, MAX_BYTES)
    try:
        tensors = decode_tensors(data) if path.name.endswith(SUFFIX) else one_image(path.name, data)
        gone, is_told = _selected(tensors, selection, features, conversions)
    except Malformed:
        if features is None or features.tobytes() not in data:
            raise
        _remove(path, memory)
        return True, True
    if not gone.any():
        return False, is_told
    if gone.all() or memory.knows(path.name, hashlib.sha256(data).hexdigest()):  # taken in: it was to go anyway
        _remove(path, memory)
        return True, True
    write_atomically(path, encode_tensors(_left(tensors, ~gone)))
    return True, is_told


def _selected(
    tensors: dict[str, NDArray[Any]], selection: OneSample | OneClass, features: Array | None, conversions: Conversions
) -> tuple[NDArray[np.bool_], bool]:
    """[N], which samples of a file are meant, and whether that can be told of all of them. Raises Malformed."""
    if isinstance(selection, OneClass):
        conditions = tensors.get("conditions")
        if conditions is None or conditions.ndim != 1:
            raise Malformed("a file without conditions does not tell which classes it holds")
        return np.asarray(conditions == selection.condition), not (conditions < 0).any()
    if features is None:
        raise Malformed("the sample is not kept, so nothing can be compared with it")
    raws, span = raw_samples({name: value for name, value in tensors.items() if name in KNOWN})
    spans = (None, *Span) if span is None else (span,)
    return np.array([_is_it(raw, features, conversions, spans) for raw in raws], bool), True


def _is_it(raw: NDArray[Any] | str, features: Array, conversions: Conversions, spans: Iterable[Span | None]) -> bool:
    """Whether what was sent becomes (a part of) the sample that is kept, however its sender meant it."""
    if not isinstance(raw, str) and raw.tobytes() == features.tobytes():
        return True
    for span in spans:
        try:
            rows, _ = normalised([raw], features.shape, replace(conversions, resize=True), span)
        except Malformed:
            continue
        if any(row.tobytes() == features.tobytes() for row in rows):
            return True
    return False


def _left(tensors: dict[str, NDArray[Any]], rows: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """A file's tensors with only these of its samples. rows: [N]."""
    left = {name: value[rows] if value.shape[:1] == rows.shape else value for name, value in tensors.items()}
    if "texts" in tensors:
        left["texts"] = tensors["texts"][np.repeat(rows, tensors["lengths"])]
    return left


def _remove(path: Path, memory: SqliteMemory) -> None:
    path.unlink()
    path.with_name(path.name + REASON).unlink(missing_ok=True)
    memory.forget_arrival(path.name)
