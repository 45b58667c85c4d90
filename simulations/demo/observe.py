"""What the demo's processes say of themselves: status files, and the devices' control sockets."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from learning_core.errors import LinkDown, Malformed
from learning_core.params import Array
from protos.control import encode_frame, read_frame
from simulations.demo.configure import Places
from simulations.demo.plan import DEVICES, FOGS

TIMEOUT_S = 5.0
Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest word of every process; empty where it has not spoken yet."""

    cloud: Status = field(default_factory=dict)
    fogs: Mapping[str, Status] = field(default_factory=dict)
    devices: Mapping[str, Status] = field(default_factory=dict)

    @property
    def releases(self) -> list[Status]:
        return list(self.cloud.get("releases", []))

    @property
    def accepted(self) -> int:
        """The newest release that was published; 0 before the first."""
        return max((each["version"] for each in self.releases if each["accepted"]), default=0)

    def serving(self, release: int) -> list[str]:
        return [name for name, status in self.devices.items() if served(status) == release]


def served(device: Status) -> int:
    """The release a device answers with; 0 for none."""
    release = device.get("release")
    return int(release["version"]) if release else 0


def look(places: Places) -> Snapshot:
    return Snapshot(
        read_status(places.state("cloud")),
        {fog: read_status(places.state(fog)) for fog in FOGS},
        {device: device_status(places, device) for device in DEVICES},
    )


def read_status(state: Path) -> Status:
    try:
        found: Status = json.loads((state / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def device_status(places: Places, device: str) -> Status:
    try:
        found: Status = ask(places.socket(device), {"op": "status"})[0]["status"]
    except (LinkDown, Malformed):
        return {}
    return found


def ask(path: Path, header: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """One request on a device's control socket. Raises LinkDown when nobody answers."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(TIMEOUT_S)
            link.connect(str(path))
            link.sendall(encode_frame(header))
            with link.makefile("rb") as stream:
                frame = read_frame(stream.read)
    except OSError as error:
        raise LinkDown(f"nobody answers at {path}; is the agent running?") from error
    if frame is None:
        raise LinkDown(f"the agent at {path} closed the connection")
    if "error" in frame[0]:
        raise LinkDown(f"the agent at {path} refused: {frame[0]['error']}")
    return frame


def images(path: Path, conditions: list[int], seed: int) -> Array:
    """Images [N, C, H, W] a device makes of these conditions."""
    header, payload = ask(path, {"op": "infer", "conditions": conditions, "seed": seed})
    return np.frombuffer(payload, "<f4").reshape(header["shape"])
