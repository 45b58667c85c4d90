"""What each part of the proof hands in, and the figures' spread over seeds."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import stats

from simulations.report import Claim


@dataclass(frozen=True, slots=True)
class Part:
    """One part's claims, its raw figures and, as HTML by heading, what a person would look at."""

    name: str
    claims: Sequence[Claim]
    figures: Mapping[str, Any]
    sections: Mapping[str, str] = field(default_factory=dict)


class PartModule(Protocol):
    """A module of this package that measures one thing.

    `run_seed` runs in a process of its own and gives JSON; it is repeated only when `SETTING` has changed.
    `run_peers` runs the peer in an environment of its own, None when it cannot.
    """

    __name__: str
    NAME: str
    NEEDS_DATA: bool
    SETTING: Mapping[str, Any]

    def run_seed(self, seed: int, data: Path | None) -> dict[str, Any]: ...

    def summarise(self, results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part: ...


def run_peer(python: Path, package: str, script: Path, *arguments: Path) -> bool:
    """Run a script with a peer's Python, without its warnings; False where the peer is not installed there.

    Raises RuntimeError with what it said last when it fails.
    """
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    if subprocess.run([python, "-c", look], capture_output=True, check=False).returncode:
        return False
    command: list[str | Path] = [python, "-W", "ignore", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{package} failed: {done.stderr[-500:]}")
    return True


def mean_and_spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t: (mean, low, high). One value has no spread and bounds itself."""
    if not values:
        raise ValueError("there are no values to average")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
