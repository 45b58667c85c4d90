"""river's ADWIN on the streams of a folder, for an environment of its own: nothing of ours is imported here.

`python river_adwin.py FOLDER` reads streams.npz and request.json there and leaves answer.json: for each setting the
false alarms by kind of stationary stream and the items until each drift was seen.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from river.drift import ADWIN


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with np.load(folder / "streams.npz", allow_pickle=False) as arrays:
        streams = {name: arrays[name] for name in arrays.files}
    answer = {
        f"delta {delta:g}, every {clock}": outcome(streams, request["after"], delta, clock)
        for delta in request["delta"]
        for clock in request["clock"]
    }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def outcome(streams: dict[str, Any], after: int, delta: float, clock: int) -> dict[str, Any]:
    false: dict[str, int] = {}
    delays: dict[str, list[int]] = {}
    for name, runs in streams.items():
        what, _, kind = name.partition(" ")
        if what == "still":
            false[kind] = sum(len(list(alarms(run, delta, clock))) for run in runs)
        elif what == "moving":
            ends = zip(runs, streams["changes"].tolist(), strict=True)
            delays[kind] = [delay(run[: change + after], change, delta, clock) for run, change in ends]
    return {"alarms": false, "delays": delays}


def alarms(stream: Any, delta: float, clock: int) -> Iterator[int]:
    detector = ADWIN(delta=delta, clock=clock)
    for at, value in enumerate(stream.tolist()):
        detector.update(value)
        if detector.drift_detected:
            yield at


def delay(stream: Any, change: int, delta: float, clock: int) -> int:
    first = next((at for at in alarms(stream, delta, clock) if at >= change), len(stream) - 1)
    return first + 1 - change


if __name__ == "__main__":
    main(Path(sys.argv[1]))
