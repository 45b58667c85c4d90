"""A fog and a few devices that only talk: real processes, the real fleet link over TLS with keys, trivial training."""

import contextlib
import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from learning_core.errors import DewfallError
from protos.certificates import CertificateFiles, ensure_certificate
from simulations.bench import fog_and_device
from simulations.bench.fog_and_device import HOST
from simulations.demo.leash import leashed
from simulations.demo.processes import environment


class SmallFleet:
    """The processes of one fog and its devices; leaving the `with` block ends them. Saved: their folder."""

    def __init__(self, folder: Path, devices: int, payload: str = "one array", train_s: float = 0.0) -> None:
        self.folder = folder
        self.devices = devices
        self._payload = payload
        self._train_s = train_s
        self.fog: subprocess.Popen[str] | None = None
        self.port = 0
        self.nodes: dict[str, int] = {}
        self.members: dict[int, subprocess.Popen[str]] = {}
        (folder / "fog").mkdir(parents=True, exist_ok=True)
        make_certificate(folder)
        for index in range(devices):
            make_key(folder / f"device-{index}")

    def __enter__(self) -> Self:
        try:
            self.start_fog()
            for index in range(self.devices):
                self.start_device(index)
            self.wait_online(self.devices)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start_fog(self) -> None:
        """Start the fog, on the port it had before if there was one."""
        self.fog = self._start("fog", str(self.folder), str(self.port), self._payload)
        told = self._hear()
        self.port, self.nodes = told["port"], told["nodes"]

    def start_device(self, index: int) -> None:
        key = self.folder / f"device-{index}"
        address = f"{HOST}:{self.port}"
        self.members[index] = self._start("device", str(key), address, self._payload, str(self._train_s))

    def kill_fog(self) -> None:
        """As a power cut would."""
        if self.fog:
            self.fog.kill()
            self.fog.communicate()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Have the fog do something (see `_serve`) and say what came of it."""
        assert self.fog is not None
        assert self.fog.stdin is not None
        self.fog.stdin.write(json.dumps(command) + "\n")
        self.fog.stdin.flush()
        return self._hear()

    def wait_online(self, count: int, limit_s: float = 20.0) -> float:
        """Seconds until so many devices are connected. Raises DewfallError when they do not come."""
        began_s = time.monotonic()
        while self.ask(do="online")["online"] < count:
            if time.monotonic() - began_s > limit_s:
                raise DewfallError(f"fewer than {count} devices reached the fog within {limit_s:.0f} s")
            time.sleep(0.02)
        return time.monotonic() - began_s

    def stop(self) -> None:
        processes = [process for process in (self.fog, *self.members.values()) if process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
            process.kill()
            process.communicate()

    def _start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            leashed(fog_and_device.__name__, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
            start_new_session=True,
        )

    def _hear(self) -> dict[str, Any]:
        assert self.fog is not None
        assert self.fog.stdout is not None
        line = self.fog.stdout.readline()
        if not line:
            raise DewfallError("the fog ended early; its last words are above")
        told: dict[str, Any] = json.loads(line)
        return told


def make_certificate(folder: Path) -> None:
    """`fog.crt` and `fog.key` for a fog on loopback, and `ca.crt` that its devices trust."""
    files = CertificateFiles(folder / "ca.crt", folder / "ca.key", folder / "fog.crt", folder / "fog.key")
    ensure_certificate(files, "bench fog", [HOST], time.time())


def make_key(path: Path) -> bytes:
    """A device's key in `<path>.key` and `<path>.pub`, made if missing; the public half in PEM."""
    if not path.with_suffix(".pub").exists():
        key = ec.generate_private_key(ec.SECP384R1())
        path.with_suffix(".key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.with_suffix(".pub").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    return path.with_suffix(".pub").read_bytes()
