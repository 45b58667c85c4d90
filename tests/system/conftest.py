"""A small fleet of real processes that has settled, for tests that then spoil something: cloud, fog and device."""

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from simulations.demo.processes import environment
from simulations.physics import Board, DeviceState, sysfs_files

PROGRAM = {"cloud": ("cloud_server", "serve"), "fog": ("fog_aggregator", "run"), "edge": ("edge_agent", "run")}
CLOUD = """
state = "{folder}/cloud"
[listen]
port = {cloud_port}
[training]
rank = 2
teacher = {{ width = 8, depth = 1, heads = 2, steps = 3 }}
student = {{ width = 8, depth = 1, heads = 2, steps = 3 }}
[release]
sampler_steps = 1
images_per_condition = 40
golden_images = 10
device_gates = {{ max_fidelity_drop = 1, max_kid_rise = 1e6, max_out_of_range = 1 }}
"""
FOG = """
name = "fog-a"
state = "{folder}/fog"
[listen]
port = {fog_port}
[cloud]
address = "127.0.0.1:{cloud_port}"
ca = "{folder}/cloud/ca.crt"
release_key = "{release_key}"
token = "{fog_token}"
poll_s = 0.2
"""
EDGE = """
name = "gate-7"
state = "{folder}/edge"
[fog]
address = "127.0.0.1:{fog_port}"
ca = "{folder}/fog/fog.crt"
release_key = "{release_key}"
token = "{device_token}"
[telemetry]
root = "{folder}/root"
interval_s = 0.1
[source]
spool = "{folder}/spool"
interval_s = 0.05
"""


@dataclass
class Fleet:
    """One folder with a settings file and a state folder for each tier; what was started ends with the test."""

    folder: Path
    started: list[subprocess.Popen] = field(default_factory=list)

    def config(self, tier: str) -> Path:
        return self.folder / f"{tier}.toml"

    def state(self, tier: str) -> Path:
        return self.folder / tier

    def log(self, tier: str) -> str:
        return (self.folder / f"{tier}.log").read_text()

    def change(self, tier: str, old: str, new: str) -> None:
        text = self.config(tier).read_text()
        assert old in text
        self.config(tier).write_text(text.replace(old, new))

    def command(self, tier: str, *words: str) -> subprocess.CompletedProcess:
        """`python -m <tier's package> WORDS --config ...`, to its end."""
        command = [sys.executable, "-m", PROGRAM[tier][0], *words, "--config", str(self.config(tier))]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())

    def start(self, tier: str) -> subprocess.Popen:
        package, word = PROGRAM[tier]
        with (self.folder / f"{tier}.log").open("ab") as log:
            command = [sys.executable, "-m", package, word, "--config", str(self.config(tier))]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        self.started.append(process)
        return process

    def ready(self, tier: str) -> bool:
        """Whether it answers: the cloud listens, the fog has a release, the device serves one."""
        if tier == "cloud":
            return "the cloud listens" in self.log("cloud")
        if tier == "fog":
            return self.status("fog").get("release") == 1 and self.status("fog")["pid"] == self.started[-1].pid
        return "serves release 1" in self.command("edge", "status").stdout

    def status(self, tier: str) -> dict:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.state(tier) / "status.json").read_text())
        return {}

    def until(self, holds, what: str, limit_s: float = 30.0) -> None:
        deadline = time.monotonic() + limit_s
        while not holds():
            logs = {tier: self.log(tier) for tier in PROGRAM if (self.folder / f"{tier}.log").exists()}
            assert time.monotonic() < deadline, f"waited in vain for {what}: {logs}"
            time.sleep(0.1)

    def up(self, tier: str) -> subprocess.Popen:
        process = self.start(tier)
        self.until(lambda: self.ready(tier), f"{tier} to be ready")
        return process

    def stop(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.started.clear()


@pytest.fixture(scope="session")
def settled(tmp_path_factory) -> tuple[Path, Mapping[str, object]]:
    """The folder of a fleet whose device serves release 1, all stopped; and what is written into its settings."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    known: dict[str, object] = {"folder": fleet.folder, "cloud_port": free_port(), "fog_port": free_port()}
    for path, text in sysfs_files(DeviceState(40.0, 38.0), Board()).items():
        (fleet.folder / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (fleet.folder / "root" / path).write_text(text)
    try:
        fleet.config("cloud").write_text(CLOUD.format(**known))
        founded = fleet.command("cloud", "init", "--json-progress")
        assert founded.returncode == 0, founded.stderr
        fleet.up("cloud")
        known["release_key"] = (fleet.state("cloud") / "release.pub").read_text().strip()
        known["fog_token"] = fleet.command("cloud", "enroll-token", "--fog", "fog-a").stdout.strip()
        fleet.config("fog").write_text(FOG.format(**known))
        fleet.up("fog")
        known["device_token"] = fleet.command("fog", "enroll-token").stdout.strip()
        fleet.config("edge").write_text(EDGE.format(**known))
        fleet.up("edge")
    finally:
        fleet.stop()
    for tier in PROGRAM:
        (fleet.folder / f"{tier}.log").unlink()
    return fleet.folder, known


@pytest.fixture
def fleet(settled, tmp_path) -> Iterator[Fleet]:
    """A copy of it that a test may spoil; nothing of it runs."""
    template, _ = settled
    folder = tmp_path / "fleet"
    shutil.copytree(template, folder)
    copy = Fleet(folder)
    for tier in PROGRAM:
        copy.config(tier).write_text(copy.config(tier).read_text().replace(str(template), str(folder)))
    yield copy
    copy.stop()


@pytest.fixture
def contents():
    """A function: every file below a folder as path -> sha256, but for the lock, which holds nothing."""

    def read(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read


@pytest.fixture
def on_own_disk(tmp_path) -> Iterator[object]:
    """A function that moves a folder onto a small disk of its own; for root on Linux, else the test is skipped."""
    mounted: list[Path] = []

    def move(folder: Path, mib: int) -> None:
        spare = tmp_path / f"{folder.name}.moved"
        folder.rename(spare)
        folder.mkdir()
        mount("-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder))
        mounted.append(folder)
        shutil.copytree(spare, folder, dirs_exist_ok=True)

    yield move
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def mount(*words: str) -> None:
    try:
        subprocess.run(["mount", *words], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a disk of its own cannot be mounted here ({error}); it takes root with CAP_SYS_ADMIN")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
