"""The offload service of the stand-in: TLS, bounded messages, a deadline and a proof of the device's key each time."""

import base64
import binascii
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from protos import offload_pb2 as pb
from protos.calls import answered, check_deadline
from protos.offload_jobs import collect, pieces_of, statement
from protos.offload_messages import (
    MAX_MESSAGE_BYTES,
    decode_data,
    decode_job,
    decode_offer_query,
    decode_query,
    encode_offer,
    encode_result,
    encode_result_data,
    encode_state,
)
from protos.offload_pb2_grpc import OffloadServicer, add_OffloadServicer_to_server
from simulations.offload_stand_in import StandInJobs

NOT_COMPRESSED = 1  # a bit for each algorithm; the first is none
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.compression_enabled_algorithms_bitset", NOT_COMPRESSED),
)


class StandInService(OffloadServicer):
    """Translates calls for the jobs; decides nothing but who may speak. `devices`: their public keys, as PEM."""

    def __init__(self, jobs: StandInJobs, devices: Callable[[str], bool]) -> None:
        self._jobs = jobs
        self._devices = devices

    def Offer(self, request: pb.OfferQuery, context: Any) -> pb.OfferReply:  # noqa: N802
        check_deadline(context)
        return answered(context, lambda: encode_offer(self._jobs.offer(*decode_offer_query(request))))

    def Submit(self, request_iterator: Iterator[pb.JobPiece], context: Any) -> pb.JobState:  # noqa: N802
        first = next(request_iterator, pb.JobPiece())
        header = answered(context, lambda: decode_job(first))
        device = self._device(context, "Submit", header.job)

        def contents() -> list[bytes]:
            return collect((decode_data(piece) for piece in request_iterator), [header.samples, header.start])

        return answered(context, lambda: encode_state(self._jobs.submit(device, header, contents)))

    def Poll(self, request: pb.JobQuery, context: Any) -> pb.JobState:  # noqa: N802
        job = answered(context, lambda: decode_query(request))
        return encode_state(self._jobs.state(self._device(context, "Poll", job), job))

    def Drop(self, request: pb.JobQuery, context: Any) -> pb.JobState:  # noqa: N802
        job = answered(context, lambda: decode_query(request))
        return encode_state(self._jobs.drop(self._device(context, "Drop", job), job))

    def Fetch(self, request: pb.JobQuery, context: Any) -> Iterator[pb.ResultPiece]:  # noqa: N802
        job = answered(context, lambda: decode_query(request))
        device = self._device(context, "Fetch", job)
        header, adapter = answered(context, lambda: self._jobs.result(device, job))
        yield encode_result(header)
        for piece in pieces_of(adapter):
            yield encode_result_data(piece)

    def _device(self, context: Any, method: str, job: bytes) -> str:
        """Who calls, by a key that is known here; ends the call when the proof is none."""
        check_deadline(context)
        given = dict(context.invocation_metadata())
        try:
            text = base64.b64decode(given.get("dewfall-device", ""), validate=True)
            proof = base64.b64decode(given.get("dewfall-proof", ""), validate=True)
            key = load_pem_public_key(text)
            if not isinstance(key, ec.EllipticCurvePublicKey) or not self._devices(text.decode("ascii")):
                raise ValueError("a device that is not enrolled")
            key.verify(proof, statement(method, job), ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature, binascii.Error):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this key is not enrolled; enrol the device with a token")
        return text.decode("ascii")


def start_stand_in(
    service: OffloadServicer, private_key: bytes, certificate: bytes, port: int = 0
) -> tuple[grpc.Server, int]:
    """Listen on loopback; the running server and its port."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=_OPTIONS, maximum_concurrent_rpcs=16)
    add_OffloadServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    credentials = grpc.ssl_server_credentials([(private_key, certificate)])
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    return server, int(bound)
