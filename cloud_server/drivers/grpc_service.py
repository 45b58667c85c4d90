"""The cloud's gRPC service: TLS, bounded messages, every call with a deadline, every fog with its credential."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from cloud_server.drivers.traffic import Traffic
from cloud_server.exchange import Exchange
from learning_core.errors import PortInUse
from protos import dewfall_pb2 as pb
from protos.calls import answered, check_deadline
from protos.cloud_messages import (
    MAX_CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    aggregate_version,
    decode_aggregate,
    decode_enrolment,
    decode_file_request,
    decode_poll,
    encode_ack,
    encode_latest,
)
from protos.dewfall_pb2_grpc import CloudServicer, add_CloudServicer_to_server

MAX_CONCURRENT = 64
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.max_concurrent_streams", MAX_CONCURRENT),
)
OpenFile = Callable[[int, str], Path]  # raises Malformed when there is no such published file


class CloudService(CloudServicer):
    """Translates calls for the exchange; decides nothing but who may speak."""

    def __init__(self, exchange: Exchange, file_of: OpenFile, traffic: Traffic) -> None:
        self._exchange, self._file_of, self._traffic = exchange, file_of, traffic

    def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:  # noqa: N802
        check_deadline(context)
        enrolment = answered(context, partial(decode_enrolment, request))
        if (refused := answered(context, partial(self._exchange.enroll, enrolment))) is not None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, refused)
        return pb.EnrollReply()

    def PushAggregate(self, request: pb.AggregateMessage, context: Any) -> pb.Ack:  # noqa: N802
        fog = self._fog(context)
        if request.fog != fog:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{fog} cannot deliver for another fog")
        reply = answered(context, partial(self._push, request))
        self._traffic.add(fog, up=request.ByteSize(), down=reply.ByteSize())
        return reply

    def Poll(self, request: pb.PollRequest, context: Any) -> pb.PollReply:  # noqa: N802
        fog = self._fog(context)
        reply = answered(context, lambda: encode_latest(self._exchange.latest(decode_poll(request))))
        self._traffic.add(fog, up=request.ByteSize(), down=reply.ByteSize())
        return reply

    def FetchFile(self, request: pb.FileRequest, context: Any) -> Iterator[pb.Chunk]:  # noqa: N802
        fog = self._fog(context)
        wanted = answered(context, partial(decode_file_request, request))
        path = answered(context, partial(self._file_of, wanted.release, wanted.name))
        with path.open("rb") as file:
            file.seek(wanted.offset)
            while data := file.read(MAX_CHUNK_BYTES):
                chunk = pb.Chunk(data=data)
                self._traffic.add(fog, up=0, down=chunk.ByteSize())
                yield chunk

    def _push(self, request: pb.AggregateMessage) -> pb.Ack:
        shapes = self._exchange.shapes_of(aggregate_version(request).release)
        return encode_ack(self._exchange.push(decode_aggregate(request, shapes)))

    def _fog(self, context: Any) -> str:
        """Who calls, by the credential in the call's metadata; ends the call when it is nobody we know."""
        check_deadline(context)
        given = dict(context.invocation_metadata()).get("authorization", "")
        scheme, _, credential = given.partition(" ")
        fog = None
        if scheme == "Bearer" and credential:
            fog = answered(context, partial(self._exchange.fog_of, credential))
        if fog is None:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "this credential is not enrolled; enrol the fog with a one-time token"
            )
        return str(fog)


def start_service(
    service: CloudService, host: str, port: int, private_key: bytes, certificate: bytes
) -> tuple[grpc.Server, int]:
    """Listen; returns the running server and its port. Raises PortInUse."""
    server = grpc.server(
        ThreadPoolExecutor(max_workers=16, thread_name_prefix="grpc"),
        options=_OPTIONS,
        maximum_concurrent_rpcs=MAX_CONCURRENT,
    )
    add_CloudServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    credentials = grpc.ssl_server_credentials([(private_key, certificate)])
    try:
        bound = server.add_secure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", credentials)
    except RuntimeError as error:
        raise PortInUse(
            f"cannot listen on {host} port {port}; stop what uses it, or set another [listen] port"
        ) from error
    server.start()
    return server, int(bound)
