from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SampleKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[SampleKind]
    RAW: _ClassVar[SampleKind]
    LATENTS: _ClassVar[SampleKind]
KIND_UNSPECIFIED: SampleKind
RAW: SampleKind
LATENTS: SampleKind

class OfferQuery(_message.Message):
    __slots__ = ("release", "manifest_sha256")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    release: int
    manifest_sha256: bytes
    def __init__(self, release: _Optional[int] = ..., manifest_sha256: _Optional[bytes] = ...) -> None: ...

class OfferReply(_message.Message):
    __slots__ = ("kinds", "reason")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[SampleKind]
    reason: str
    def __init__(self, kinds: _Optional[_Iterable[_Union[SampleKind, str]]] = ..., reason: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("size", "sha256")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    size: int
    sha256: bytes
    def __init__(self, size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class JobHeader(_message.Message):
    __slots__ = ("job", "release", "manifest_sha256", "kind", "noise_deviation", "steps", "batch", "learning_rate", "seed", "samples", "start")
    JOB_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NOISE_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    job: bytes
    release: int
    manifest_sha256: bytes
    kind: SampleKind
    noise_deviation: float
    steps: int
    batch: int
    learning_rate: float
    seed: int
    samples: Blob
    start: Blob
    def __init__(self, job: _Optional[bytes] = ..., release: _Optional[int] = ..., manifest_sha256: _Optional[bytes] = ..., kind: _Optional[_Union[SampleKind, str]] = ..., noise_deviation: _Optional[float] = ..., steps: _Optional[int] = ..., batch: _Optional[int] = ..., learning_rate: _Optional[float] = ..., seed: _Optional[int] = ..., samples: _Optional[_Union[Blob, _Mapping]] = ..., start: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class JobPiece(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: JobHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[JobHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class JobQuery(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: bytes
    def __init__(self, job: _Optional[bytes] = ...) -> None: ...

class JobState(_message.Message):
    __slots__ = ("standing", "step", "reason")
    class Standing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STANDING_UNSPECIFIED: _ClassVar[JobState.Standing]
        UNKNOWN: _ClassVar[JobState.Standing]
        WORKING: _ClassVar[JobState.Standing]
        DONE: _ClassVar[JobState.Standing]
        REFUSED: _ClassVar[JobState.Standing]
        BUSY: _ClassVar[JobState.Standing]
    STANDING_UNSPECIFIED: JobState.Standing
    UNKNOWN: JobState.Standing
    WORKING: JobState.Standing
    DONE: JobState.Standing
    REFUSED: JobState.Standing
    BUSY: JobState.Standing
    STANDING_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    standing: JobState.Standing
    step: int
    reason: str
    def __init__(self, standing: _Optional[_Union[JobState.Standing, str]] = ..., step: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ResultHeader(_message.Message):
    __slots__ = ("job", "steps", "loss", "adapter")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    job: bytes
    steps: int
    loss: float
    adapter: Blob
    def __init__(self, job: _Optional[bytes] = ..., steps: _Optional[int] = ..., loss: _Optional[float] = ..., adapter: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class ResultPiece(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: ResultHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[ResultHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...
