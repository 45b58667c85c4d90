"""The fog's offload service by gRPC: TLS with the fog's own authority, a deadline and a proof of the key each time."""

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.drivers.fog_http import public_text
from learning_core.errors import ConfigError, DewfallError, LinkDown, Malformed
from protos import offload_pb2 as pb
from protos.offload_jobs import JobHeader, JobState, Offer, ResultHeader, collect, pieces_of, statement
from protos.offload_messages import (
    MAX_MESSAGE_BYTES,
    decode_data,
    decode_offer,
    decode_result,
    decode_state,
    encode_job,
    encode_job_data,
    encode_offer_query,
    encode_query,
)
from protos.offload_pb2_grpc import OffloadStub

NOT_COMPRESSED = 1  # a bit for each algorithm; the first is none
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", NOT_COMPRESSED),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 10_000),
)


class OffloadCalls:
    """One channel, which connects again by itself; one call at a time, which any thread may cancel. Nothing is saved.

    Every call raises LinkDown (try again), Malformed (what came is not to be believed, or what was sent not wanted) or
    ConfigError (this device is not let in).
    """

    def __init__(self, address: str, ca: Path, key: ec.EllipticCurvePrivateKey, deadline_s: float) -> None:
        try:
            trusted = grpc.ssl_channel_credentials(ca.read_bytes())
        except OSError as error:
            raise ConfigError(f"{ca} cannot be read ({error.strerror}); copy the fog's fog.crt there") from error
        self._address = address
        self._key = key
        self._device = base64.b64encode(public_text(key).encode()).decode()
        self._deadline_s = deadline_s
        self._channel = grpc.secure_channel(address, trusted, options=_OPTIONS)
        self._stub: Any = OffloadStub(self._channel)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()  # guards what follows
        self._call: Any = None
        self._up = self._down = 0

    def offer(self, release: int, manifest_sha256: str) -> Offer:
        query = self._sent(encode_offer_query(release, manifest_sha256))
        return decode_offer(self._ask(self._stub.Offer.future, query, ()))

    def submit(self, header: JobHeader, samples: bytes, start: bytes) -> JobState:
        def pieces() -> Iterator[pb.JobPiece]:
            yield self._sent(encode_job(header))
            for piece in pieces_of(samples, start):
                yield self._sent(encode_job_data(piece))

        return decode_state(self._ask(self._stub.Submit.future, pieces(), self._proof("Submit", header.job)))

    def poll(self, job: bytes) -> JobState:
        return decode_state(self._ask(self._stub.Poll.future, self._sent(encode_query(job)), self._proof("Poll", job)))

    def drop(self, job: bytes) -> JobState:
        return decode_state(self._ask(self._stub.Drop.future, self._sent(encode_query(job)), self._proof("Drop", job)))

    def fetch(self, job: bytes) -> tuple[ResultHeader, bytes]:
        """The adapter's bytes as the fog announced them; nothing of what is in them has been looked at yet."""
        call = self._begin(self._stub.Fetch, self._sent(encode_query(job)), self._proof("Fetch", job))
        try:
            messages = (self._received(message) for message in call)
            if (first := next(messages, None)) is None:
                raise Malformed("the fog sent no result")
            header = decode_result(first)
            if header.job != job:
                raise Malformed("the fog sent the result of another job")
            (adapter,) = collect((decode_data(message) for message in messages), [header.adapter])
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            call.cancel()
        return header, adapter

    def cancel(self) -> None:
        """End the call at work, if there is one; whoever waits for it gets LinkDown."""
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()

    def traffic(self) -> tuple[int, int]:
        """Bytes of messages sent and received."""
        with self._lock:
            return self._up, self._down

    def close(self) -> None:
        self._channel.close()

    def _ask(self, method: Any, request: Any, metadata: tuple[tuple[str, str], ...]) -> Any:
        call = self._begin(method, request, metadata)
        try:
            return self._received(call.result())
        except grpc.FutureCancelledError as error:
            raise LinkDown("the call was given up") from error
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def _begin(self, method: Any, request: Any, metadata: tuple[tuple[str, str], ...]) -> Any:
        try:
            call = method(request, timeout=self._deadline_s, metadata=metadata)
        except ValueError as error:  # the channel was closed
            raise LinkDown("this agent is stopping") from error
        with self._lock:
            self._call = call
        return call

    def _proof(self, method: str, job: bytes) -> tuple[tuple[str, str], ...]:
        signature = self._key.sign(statement(method, job), ec.ECDSA(hashes.SHA256()))
        return ("dewfall-device", self._device), ("dewfall-proof", base64.b64encode(signature).decode())

    def _sent(self, message: Any) -> Any:
        with self._lock:
            self._up += message.ByteSize()
        return message

    def _received(self, message: Any) -> Any:
        with self._lock:
            self._down += message.ByteSize()
        return message

    def _translated(self, error: Any) -> DewfallError:
        details = str(error.details() or "")[:200]
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return ConfigError(f"the fog at {self._address} does not let this device in: {details}")
            case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.NOT_FOUND | grpc.StatusCode.FAILED_PRECONDITION:
                return Malformed(f"the fog refused a message: {details}")
            case grpc.StatusCode.UNIMPLEMENTED:
                return Malformed(f"what answers at {self._address} does not learn for devices ({details})")
            case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
                return Malformed(f"the fog sent a message that is larger than it may be ({details})")
        return LinkDown(f"the fog at {self._address} cannot be reached now ({details or error.code()})")
