"""What a real agent takes while it only serves and watches: memory, and its share of one core."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from simulations.bench.serve_world import agent, status_of

TELEMETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """One entry for each window: megabytes (1e6 bytes) resident, and shares of one core."""

    rss_mb: tuple[float, ...]
    core_share: tuple[float, ...]
    variants: int  # that were appraised


def watch_agent(
    folder: Path, settle_s: float, windows: int, window_s: float, progress: Callable[[str], None]
) -> Footprint:
    """An agent with a release, one look at its device a second, no learner, and a fog that is away.

    `settle_s`: from its appraisal on; what an agent does once for a release is over about half a minute later.
    """
    progress("an agent starts")
    with agent(folder, TELEMETRY_S) as (process, socket):
        appraised = 0
        while not appraised:
            appraised = sum(each["quality"] is not None for each in status_of(socket)["inference"]["variants"])
            time.sleep(0.5)
        time.sleep(settle_s)
        watched, rss_mb, shares = psutil.Process(process.pid), [], []
        for window in range(windows):
            progress(f"an agent stands by: window {window + 1} of {windows}")
            began_s, before = time.monotonic(), sum(watched.cpu_times()[:4])  # its own and its children's
            time.sleep(window_s)
            shares.append((sum(watched.cpu_times()[:4]) - before) / (time.monotonic() - began_s))
            rss_mb.append(watched.memory_info().rss / 1e6)
        return Footprint(tuple(rss_mb), tuple(shares), appraised)
