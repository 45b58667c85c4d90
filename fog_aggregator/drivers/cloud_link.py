"""The cloud by gRPC: TLS with its own authority, the fog's credential and a deadline on every call, bytes counted."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from fog_aggregator.drivers.wire_tap import Crossing, Tap, describe_message
from learning_core.errors import ConfigError, DewfallError, LinkDown, Malformed
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import (
    MAX_MESSAGE_BYTES,
    MAX_REASON,
    Ack,
    AckVerdict,
    Enrolment,
    FileRequest,
    Latest,
    decode_ack,
    decode_chunk,
    decode_latest,
    encode_aggregate,
    encode_enrolment,
    encode_file_request,
    encode_poll,
)
from protos.dewfall_pb2_grpc import CloudStub

_CALL_S = 15.0
_FETCH_S = 300.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 10_000),
)


class CloudLink:
    """One channel, which connects again by itself. Nothing is saved: what was not acknowledged is sent again."""

    def __init__(self, address: str, ca: bytes, fog: str, credential: str, tap: Tap = lambda _: None) -> None:
        self._address = address
        self._fog = fog
        self._credential = credential
        self._tap = tap
        self._count = threading.Lock()
        self._up = self._down = 0
        self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=_OPTIONS)
        self._stub: Any = CloudStub(self._channel)  # type: ignore[no-untyped-call]

    def enroll(self, token: str) -> None:
        """Bind this fog's credential to a one-time token; again with the same token changes nothing."""
        digest = hashlib.sha256(self._credential.encode()).digest()
        request = encode_enrolment(Enrolment(token, self._fog, digest))
        self._call("Enroll", request, signed=False)

    def push(self, aggregate: Aggregate) -> Ack:
        """What the cloud can make nothing of comes back as refused, since sending it again would not help."""
        try:
            reply = self._call("PushAggregate", encode_aggregate(aggregate))
        except Malformed as error:
            return Ack(AckVerdict.REFUSED, str(error)[:MAX_REASON], ModelVersion(0))
        return decode_ack(reply)

    def poll(self, known: ModelVersion) -> Latest:
        return decode_latest(self._call("Poll", encode_poll(known)))

    def fetch(self, release: int, name: str, offset: int) -> Iterator[bytes]:
        request = encode_file_request(FileRequest(release, name, offset))
        self._note("up", "FetchFile", request)
        try:
            call = self._stub.FetchFile(request, timeout=_FETCH_S, metadata=self._signature())
        except ValueError as error:
            raise LinkDown("this fog is stopping") from error
        try:
            for chunk in call:
                self._note("down", "FetchFile", chunk)
                yield decode_chunk(chunk)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            call.cancel()

    def traffic(self) -> tuple[int, int]:
        with self._count:
            return self._up, self._down

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, request: Message, signed: bool = True) -> Any:
        self._note("up", method, request)
        try:
            call: Callable[..., Any] = getattr(self._stub, method)
            reply = call(request, timeout=_CALL_S, metadata=self._signature() if signed else ())
        except grpc.RpcError as error:
            raise self._translated(error) from error
        except ValueError as error:  # the channel was closed: this process is about to end
            raise LinkDown("this fog is stopping") from error
        self._note("down", method, reply)
        return reply

    def _signature(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._credential}"),)

    def _note(self, direction: Any, method: str, message: Message) -> None:
        content, size = describe_message(message)
        with self._count:
            if direction == "up":
                self._up += size
            else:
                self._down += size
        self._tap(Crossing("cloud", direction, method, self._address, content, size))

    def _translated(self, error: Any) -> DewfallError:
        details = str(error.details() or "")[:200]
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return ConfigError(f"the cloud at {self._address} turned this fog away: {details}")
            case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.NOT_FOUND | grpc.StatusCode.FAILED_PRECONDITION:
                return Malformed(f"the cloud refused a message: {details}")
        return LinkDown(f"the cloud at {self._address} cannot be reached now ({details or error.code()})")
