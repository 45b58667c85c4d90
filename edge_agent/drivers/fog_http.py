"""What a device asks of its fog besides Flower: to be enrolled, and the files of a release."""

import json
import os
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.config import Fog
from learning_core.errors import ConfigError, DewfallError, LinkDown, Malformed, StateError
from protos.state_folder import write_atomically

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16 << 10


class EnrolmentRefused(DewfallError):
    """The fog will not have this device with this token."""


class FogHttp:
    """Requests over TLS to one fog, trusted by its certificate alone. Nothing is saved."""

    def __init__(self, address: str, ca: Path) -> None:
        self._address = address
        self._http = httpx.Client(
            base_url=f"https://{address}", verify=trust_in(ca), trust_env=False, timeout=TIMEOUT_S
        )
        self._lock = threading.Lock()
        self._received = 0

    def enroll(self, token: str, name: str, public_key: str) -> tuple[str, str]:
        """Bind this key to the token; (node id, fog's name). May be repeated. Raises EnrolmentRefused, LinkDown."""
        body = {"token": token, "name": name, "public_key": public_key}
        status, answer = self._ask("POST", "/v1/dewfall/enroll", body)
        if status != httpx.codes.OK:
            raise EnrolmentRefused(f"the fog at {self._address} refused to enrol this device: {_said(answer)}")
        node_id, fog = answer.get("node_id"), answer.get("fog")
        if not (isinstance(node_id, str) and re.fullmatch(r"\d{1,20}", node_id) and isinstance(fog, str)):
            raise LinkDown(f"what answers at {self._address} is not a fog")
        return node_id, fog[:100]

    def latest(self) -> tuple[int, str] | None:
        """Version and manifest digest of the fog's newest release, None when it has none. Raises LinkDown."""
        status, answer = self._ask("GET", "/v1/dewfall/releases/latest")
        if status == httpx.codes.NOT_FOUND:
            return None
        version, digest = answer.get("version"), answer.get("manifest_sha256")
        if status != httpx.codes.OK or type(version) is not int or not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise LinkDown(f"the fog at {self._address} does not say which release it has: {_said(answer)}")
        return version, str(digest)

    def download(self, version: int, name: str, target: Path, max_bytes: int) -> None:
        """One file of a release into `target`, whole or not at all. Raises LinkDown, Malformed, StateError."""
        draft = target.with_name(f".{target.name}.draft")
        size = 0
        try:
            with self._stream(f"/v1/dewfall/releases/{version}/{name}") as pieces, draft.open("wb") as file:
                for piece in pieces:
                    size += len(piece)
                    if size > max_bytes:
                        raise Malformed(f"{name} is longer than the {max_bytes} bytes it may have")
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except OSError as error:
            raise StateError(f"{target} cannot be written ({error.strerror}); free space on its disk") from error
        finally:
            draft.unlink(missing_ok=True)

    def received(self) -> int:
        """Bytes of files and answers received so far."""
        with self._lock:
            return self._received

    def close(self) -> None:
        self._http.close()

    @contextmanager
    def _stream(self, path: str) -> Iterator[Iterator[bytes]]:
        with self._reached(), self._http.stream("GET", path) as response:
            if response.status_code != httpx.codes.OK:
                raise LinkDown(f"the fog at {self._address} does not give {path} ({response.status_code})")
            yield self._counted(response)

    def _counted(self, response: httpx.Response) -> Iterator[bytes]:
        for piece in response.iter_raw(1 << 16):
            with self._lock:
                self._received += len(piece)
            yield piece

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        with self._reached(), self._http.stream(method, path, json=body) as response:
            if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise LinkDown(f"the fog at {self._address} cannot answer now ({response.status_code})")
            data = b""
            for piece in self._counted(response):
                data += piece
                if len(data) > MAX_ANSWER_BYTES:
                    raise LinkDown(f"what answers at {self._address} is not a fog")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise LinkDown(f"what answers at {self._address} is not a fog")
        return response.status_code, answer

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.StreamError, RuntimeError) as error:
            raise LinkDown(f"the fog at {self._address} cannot be reached ({error})") from error


def trust_in(ca: Path) -> ssl.SSLContext:
    """TLS that believes this certificate and what it signed. Raises ConfigError."""
    if not ca.is_file():
        raise ConfigError(f"there is no certificate {ca}; copy the fog's fog.crt there")
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca} holds no certificate that can be read; copy the fog's fog.crt") from error


def token_of(fog: Fog) -> str:
    """The one-time token. Raises ConfigError."""
    if fog.token is not None:
        return fog.token
    if fog.token_file is None:
        raise ConfigError("this device is not enrolled yet; set fog.token to a token of `fog_aggregator enroll-token`")
    try:
        return fog.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {fog.token_file} cannot be read; check fog.token_file") from error


def device_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The device's own key on P-384, made on first use and readable by its user alone. Raises StateError."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(path, text, mode=0o600)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StateError(f"the key {path} cannot be read ({error.strerror}); make it this user's own") from error
    try:
        found = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise StateError(f"{path} is not this device's key; remove it and enrol the device with a new token") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name != "secp384r1":
        raise StateError(f"{path} is not a key on P-384; remove it and enrol the device with a new token")
    return found


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half as PEM, as a fog knows its devices."""
    data = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data.decode("ascii")


def _said(answer: dict[str, Any]) -> str:
    return str(answer.get("error", "it gave no reason"))[:300]
