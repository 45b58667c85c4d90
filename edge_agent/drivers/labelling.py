"""Samples whose class nobody knows, for a person to look at and to name."""

from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.drivers.plain_files import is_plain_name, read_plain
from edge_agent.drivers.set_aside import REASON, UNSURE
from edge_agent.drivers.spool_source import SUFFIX
from learning_core.errors import ConfigError, Malformed
from learning_core.params import Array
from protos.codec import MAX_BYTES, decode_tensors, encode_tensors
from protos.state_folder import settle, write_atomically

MAX_REASON_BYTES = 4096


def unsure(spool: Path) -> list[dict[str, str]]:
    """What waits for a name, and why, in order."""
    folder = spool / UNSURE
    paths = [] if folder.is_symlink() else folder.glob(f"*{SUFFIX}")
    names = sorted(path.name for path in paths if is_plain_name(path.name))
    return [{"name": name, "reason": _reason(spool / UNSURE / name)} for name in names]


def look_at(spool: Path, name: str) -> Array:
    """One of them, [1, ...]. Raises ConfigError, Malformed."""
    return np.asarray(_tensors(spool, name)["features"], np.float32)


def label(spool: Path, name: str, condition: int) -> None:
    """Give it a class and hand it to the agent again. Raises ConfigError, Malformed, StateError.

    Killed in between, it lies in both places and is handed on twice, which the agent takes for a duplicate.
    """
    tensors = _tensors(spool, name) | {"conditions": np.array([condition])}
    write_atomically(spool / f"labelled-{name}", encode_tensors(tensors))
    path = spool / UNSURE / name
    path.unlink(missing_ok=True)
    path.with_name(name + REASON).unlink(missing_ok=True)
    settle(path.parent)


def _tensors(spool: Path, name: str) -> dict[str, Any]:
    if not is_plain_name(name) or not name.endswith(SUFFIX) or (spool / UNSURE).is_symlink():
        raise ConfigError(f"{name!a} is no name of a sample; `label` without one lists them")
    try:
        tensors: dict[str, Any] = decode_tensors(read_plain(spool / UNSURE / name, MAX_BYTES))
    except FileNotFoundError as error:
        raise ConfigError(f"no sample {name} waits for a name; `label` without one lists those that do") from error
    if "features" not in tensors or len(tensors["features"]) != 1:
        raise Malformed(f"{name} does not hold one sample")
    return tensors


def _reason(path: Path) -> str:
    try:
        return read_plain(path.with_name(path.name + REASON), MAX_REASON_BYTES).decode("utf-8", "replace").strip()
    except (FileNotFoundError, Malformed):
        return ""
