"""The settings files of the demo's processes: what a person would write for a small fleet of their own."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.release import read_release_key
from protos.state_folder import write_atomically

CLIP_NORM = 10.0
NOISE_MULTIPLIER = 0.003
SAMPLE_RATE = 0.9
TARGET_DELTA = 1e-3
ROUNDS_PER_RELEASE = 5


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of one demo is. `sockets` is short: a Unix socket's path has to fit into about 100 bytes."""

    out: Path
    sockets: Path

    def config(self, name: str) -> Path:
        return self.out / "config" / f"{name}.toml"

    def state(self, name: str) -> Path:
        return self.out / "state" / name

    def tap(self, fog: str) -> Path:
        return self.out / "wire" / f"{fog}.jsonl"

    def world(self) -> Path:
        return self.out / "devices"

    def socket(self, device: str) -> Path:
        return self.sockets / f"{device}.sock"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cloud(places: Places, port: int, seed: int) -> Path:
    return _write(
        places.config("cloud"),
        {
            "state": str(places.state("cloud")),
            "listen": {"port": port},
            "training": {"seed": seed},
            "release": {"steps_per_release": ROUNDS_PER_RELEASE, "patience_s": 25.0},
        },
    )


def fog(places: Places, name: str, port: int, cloud_port: int, token: str) -> Path:
    cloud_state = places.state("cloud")
    return _write(
        places.config(name),
        {
            "name": name,
            "state": str(places.state(name)),
            "tap": str(places.tap(name)),
            "listen": {"port": port},
            "cloud": {
                "address": f"127.0.0.1:{cloud_port}",
                "ca": str(cloud_state / "ca.crt"),
                "release_key": release_key(places),
                "token": token,
                "poll_s": 0.25,
            },
            "privacy": {
                "clip_norm": CLIP_NORM,
                "noise_multiplier": NOISE_MULTIPLIER,
                "sample_rate": SAMPLE_RATE,
                "target_delta": TARGET_DELTA,
                "max_epsilon": 1e9,  # six devices cannot be private: said in the report, and here
            },
            "rounds": {
                "min_devices": 3,
                "min_ready": 2,
                "status_deadline_s": 2.0,
                "deadline_s": 30.0,
                "round_pause_s": 0.1,
                "idle_pause_s": 1.0,
                "patience_s": 20.0,
            },
        },
    )


def device(places: Places, name: str, fog_name: str, fog_port: int, token: str) -> Path:
    world = places.world() / name
    return _write(
        places.config(name),
        {
            "name": name,
            "state": str(places.state(name)),
            "fog": {
                "address": f"127.0.0.1:{fog_port}",
                "ca": str(places.state(fog_name) / "fog.crt"),
                "release_key": release_key(places),
                "token": token,
            },
            "telemetry": {"root": str(world / "root"), "interval_s": 0.25},
            "source": {"spool": str(world / "spool"), "interval_s": 0.25},
            "learning": {"patience_s": 2.0},
            "serving": {"socket": str(places.socket(name))},
            "privacy": {"max_epsilon": 1e9, "target_delta": TARGET_DELTA},
        },
    )


def release_key(places: Places) -> str:
    return read_release_key(places.state("cloud") / "release.pub").hex()


def toml(values: Mapping[str, Any]) -> str:
    """Plain values first, then one table per nested mapping. Strings as JSON writes them, which TOML reads the same."""
    plain = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in values.items()
        if not isinstance(value, Mapping)
    ]
    tables = [f"\n[{key}]\n{toml(value)}" for key, value in values.items() if isinstance(value, Mapping)]
    return "\n".join([*plain, *tables]).strip() + "\n"


def _write(path: Path, values: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, toml(values).encode(), 0o600)  # it holds a token
    return path
