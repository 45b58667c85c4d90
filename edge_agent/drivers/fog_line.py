"""Signed requests to a fog over TLS, with Flower's proof of a node's key."""

import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from learning_core.errors import ConfigError, DewfallError, LinkDown
from protos.codec import MAX_BYTES

SIGN_EVERY = timedelta(seconds=60)  # Flower accepts a signed timestamp for five minutes
QUICK_FAILURES = 60  # after about a minute of failures the link slows down, to spare the battery


class NotLetIn(DewfallError):
    """The fog does not know this device's key."""


class Rejected(DewfallError):
    """The fog will not take this request, however often it is sent."""


def pause_s(failures: int, spread: float) -> float:
    """Seconds before the next try after `failures` in a row; `spread` (0..1) keeps devices from coming all at once."""
    longest = 1.0 if failures <= QUICK_FAILURES else 15.0
    return min(longest, 0.1 * 2.0 ** min(failures - 1, 10)) * (0.75 + 0.5 * spread)


class FogLine:
    """Signed Fleet API calls over kept connections. Used by several threads; nothing is saved."""

    def __init__(
        self,
        address: str,
        ca: Path,
        private_key: ec.EllipticCurvePrivateKey,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        try:
            trust = ssl.create_default_context(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{ca} is not a certificate ({error}); name the fog's CA certificate") from error
        try:
            self._http = httpx.Client(
                base_url=f"https://{address}/v1/fleet/",
                verify=trust,
                limits=httpx.Limits(max_connections=8, keepalive_expiry=60.0),
                headers={"accept-encoding": "identity"},
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise ConfigError(f"{address!r} is not an address; write the fog's as host:port") from error
        self._key = private_key
        self._clock = clock
        self.public_key = private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._lock = threading.Lock()  # guards what follows
        self._sent = self._received = 0
        self._signed_at = datetime.min.replace(tzinfo=UTC)
        self._signed: dict[str, str] = {}
        self._clock_lag = timedelta(0)

    def call(self, path: str, request: Any, kind: type[Any], timeout_s: float = 10.0) -> Any:
        """One request and its protobuf answer. Raises LinkDown, NotLetIn, Rejected."""
        body = request.SerializeToString()
        try:
            with self._http.stream("POST", path, content=body, headers=self.signature(), timeout=timeout_s) as response:
                content = _read(response)
        except (httpx.RequestError, OSError, RuntimeError) as error:
            raise LinkDown(f"the fog cannot be reached ({error})") from error
        with self._lock:
            self._sent += len(body) + _size(response.request.headers)
            self._received += len(content) + _size(response.headers)
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.PRECONDITION_FAILED):
            self._set_clock(response.headers.get("date", ""))
            raise NotLetIn("the fog does not know this device's key; enrol it with a token")
        if response.is_server_error:
            raise LinkDown(f"the fog answered with an error ({response.status_code})")
        if response.status_code == httpx.codes.CONFLICT:
            raise Rejected("another process talks to the fog with this device's key; stop one of the two")
        if response.is_error:
            raise Rejected(f"the fog refused a request ({response.status_code})")
        try:
            return kind.FromString(content)
        except DecodeError as error:
            raise LinkDown("what answers at the fog's address is not a fog") from error

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received, heads and bodies, without TLS."""
        with self._lock:
            return self._sent, self._received

    def close(self) -> None:
        self._http.close()

    def signature(self) -> dict[str, str]:
        """Headers that prove the key: Flower's signed timestamp."""
        with self._lock:
            now = self._clock() + self._clock_lag
            if not timedelta(0) <= now - self._signed_at < SIGN_EVERY:
                stamp = now.isoformat()
                signature = self._key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
                self._signed_at = now
                self._signed = {
                    "content-type": "application/protobuf",
                    "flwr-public-key": b64encode(self.public_key).decode(),
                    "flwr-timestamp": stamp,
                    "flwr-signature": b64encode(signature).decode(),
                }
            return self._signed

    def _set_clock(self, date: str) -> None:
        """A device without a clock of its own is refused for its timestamps; the fog's answer says what time it is."""
        try:
            lag = parsedate_to_datetime(date) - self._clock()
        except (ValueError, TypeError):
            return
        with self._lock:
            self._clock_lag = lag if abs(lag) > timedelta(seconds=2) else timedelta(0)
            self._signed_at = datetime.min.replace(tzinfo=UTC)


def _read(response: httpx.Response) -> bytes:
    """The body, as long as it is no longer than a fog's may be. Raises LinkDown."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > MAX_BYTES:
            raise LinkDown("what answers at the fog's address sends more than a fog would")
    return bytes(body)


def _size(headers: httpx.Headers) -> int:
    return 20 + sum(len(name) + len(value) + 4 for name, value in headers.raw)
