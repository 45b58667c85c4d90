"""Between a device and the fog that learns for it: messages <-> our values, believed only when every field fits.

Fields this version does not know are refused too: nothing crosses a tier that nobody looked at.
"""

import math

from learning_core.errors import Malformed
from protos import offload_pb2 as pb
from protos.messages import nothing_unknown
from protos.offload_jobs import MAX_PIECE_BYTES, Blob, JobHeader, JobState, Kind, Offer, ResultHeader, Standing, named

MAX_MESSAGE_BYTES = MAX_PIECE_BYTES + (64 << 10)
MAX_SAMPLES_BYTES = 64 << 20
MAX_ADAPTER_BYTES = 8 << 20
MAX_REASON = 300
MAX_STEPS, MAX_BATCH = 100_000, 4096
_MAX_RELEASE = 10**9 - 1
_SHA256 = 32


def encode_offer_query(release: int, manifest_sha256: str) -> pb.OfferQuery:
    return pb.OfferQuery(release=release, manifest_sha256=bytes.fromhex(manifest_sha256))


def decode_offer_query(message: pb.OfferQuery) -> tuple[int, str]:
    """Release and manifest digest. Raises Malformed."""
    nothing_unknown(message)
    return _release(message.release), _digest(message.manifest_sha256, "manifest").hex()


def encode_offer(offer: Offer) -> pb.OfferReply:
    return pb.OfferReply(kinds=[each.name for each in sorted(offer.kinds)], reason=offer.reason[:MAX_REASON])


def decode_offer(message: pb.OfferReply) -> Offer:
    """Raises Malformed."""
    nothing_unknown(message)
    if len(message.kinds) > len(Kind):
        raise Malformed("the fog offers to learn from more kinds of samples than there are")
    return Offer(frozenset(_kind(each) for each in message.kinds), _reason(message.reason))


def encode_job(header: JobHeader) -> pb.JobPiece:
    return pb.JobPiece(
        header=pb.JobHeader(
            job=header.job,
            release=header.release,
            manifest_sha256=bytes.fromhex(header.manifest_sha256),
            kind=header.kind.name,
            noise_deviation=header.noise_deviation,
            steps=header.steps,
            batch=header.batch,
            learning_rate=header.learning_rate,
            seed=header.seed,
            samples=_blob_message(header.samples),
            start=_blob_message(header.start),
        )
    )


def decode_job(message: pb.JobPiece) -> JobHeader:
    """The first piece of a job. Raises Malformed."""
    nothing_unknown(message)
    if message.WhichOneof("part") != "header":
        raise Malformed("a job begins with its header")
    header = message.header
    kind, deviation, rate = _kind(header.kind), header.noise_deviation, header.learning_rate
    if not (math.isfinite(deviation) and 0 <= deviation <= 1e9) or (kind is Kind.RAW) != (deviation == 0):
        raise Malformed(f"{deviation} is not how far {kind} samples are noised")
    if not (1 <= header.steps <= MAX_STEPS and 1 <= header.batch <= MAX_BATCH):
        raise Malformed(f"{header.steps} steps of {header.batch} samples are no fit a device would ask for")
    if not (math.isfinite(rate) and 0 < rate <= 10):
        raise Malformed(f"{rate} is not a learning rate")
    found = JobHeader(
        _digest(header.job, "job"),
        _release(header.release),
        _digest(header.manifest_sha256, "manifest").hex(),
        kind,
        deviation,
        header.steps,
        header.batch,
        rate,
        header.seed,
        _blob(header.samples, MAX_SAMPLES_BYTES),
        _blob(header.start, MAX_ADAPTER_BYTES),
    )
    if named(found) != found:
        raise Malformed("the job has another name than its contents give it")
    return found


def encode_job_data(data: bytes) -> pb.JobPiece:
    return pb.JobPiece(data=data)


def encode_result_data(data: bytes) -> pb.ResultPiece:
    return pb.ResultPiece(data=data)


def decode_data(message: pb.JobPiece | pb.ResultPiece) -> bytes:
    """A piece after the first. Raises Malformed."""
    nothing_unknown(message)
    if message.WhichOneof("part") != "data" or not 0 < len(message.data) <= MAX_PIECE_BYTES:
        raise Malformed(f"after the header come pieces of 1 to {MAX_PIECE_BYTES} bytes")
    return bytes(message.data)


def encode_query(job: bytes) -> pb.JobQuery:
    return pb.JobQuery(job=job)


def decode_query(message: pb.JobQuery) -> bytes:
    """Raises Malformed."""
    nothing_unknown(message)
    return _digest(message.job, "job")


def encode_state(state: JobState) -> pb.JobState:
    return pb.JobState(standing=state.standing.name, step=state.step, reason=state.reason[:MAX_REASON])


def decode_state(message: pb.JobState) -> JobState:
    """Raises Malformed."""
    nothing_unknown(message)
    try:
        standing = Standing[pb.JobState.Standing.Name(message.standing)]
    except (KeyError, ValueError) as error:
        raise Malformed(f"{message.standing} is not how a job can stand") from error
    if message.step > MAX_STEPS:
        raise Malformed(f"no job has {message.step} steps")
    return JobState(standing, message.step, _reason(message.reason))


def encode_result(result: ResultHeader) -> pb.ResultPiece:
    header = pb.ResultHeader(
        job=result.job, steps=result.steps, loss=result.loss, adapter=_blob_message(result.adapter)
    )
    return pb.ResultPiece(header=header)


def decode_result(message: pb.ResultPiece) -> ResultHeader:
    """The first piece of a result. Raises Malformed."""
    nothing_unknown(message)
    if message.WhichOneof("part") != "header":
        raise Malformed("a result begins with its header")
    header = message.header
    if not 1 <= header.steps <= MAX_STEPS or not math.isfinite(header.loss):
        raise Malformed(f"{header.steps} steps to a loss of {header.loss} are no result")
    return ResultHeader(_digest(header.job, "job"), header.steps, header.loss, _blob(header.adapter, MAX_ADAPTER_BYTES))


def _blob_message(blob: Blob) -> pb.Blob:
    return pb.Blob(size=blob.size, sha256=blob.sha256)


def _blob(message: pb.Blob, max_bytes: int) -> Blob:
    if not 0 < message.size <= max_bytes:
        raise Malformed(f"{message.size} bytes are announced; 1 to {max_bytes} are accepted")
    return Blob(message.size, _digest(message.sha256, "content"))


def _digest(value: bytes, what: str) -> bytes:
    if len(value) != _SHA256:
        raise Malformed(f"the digest of the {what} is not {_SHA256} bytes long")
    return value


def _release(value: int) -> int:
    if not 1 <= value <= _MAX_RELEASE:
        raise Malformed(f"{value} is not a release")
    return value


def _kind(value: int) -> Kind:
    try:
        return Kind[pb.SampleKind.Name(value)]
    except (KeyError, ValueError) as error:
        raise Malformed(f"{value} is not a kind of samples this version knows") from error


def _reason(text: str) -> str:
    if len(text) > MAX_REASON or not all(letter.isprintable() for letter in text):
        raise Malformed(f"a reason is one line of at most {MAX_REASON} letters")
    return text
