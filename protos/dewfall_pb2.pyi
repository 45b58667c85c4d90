from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Version(_message.Message):
    __slots__ = ("release", "step")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    release: int
    step: int
    def __init__(self, release: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("token", "fog", "credential_sha256")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FOG_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_SHA256_FIELD_NUMBER: _ClassVar[int]
    token: str
    fog: str
    credential_sha256: bytes
    def __init__(self, token: _Optional[str] = ..., fog: _Optional[str] = ..., credential_sha256: _Optional[bytes] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AggregateMessage(_message.Message):
    __slots__ = ("fog", "round", "base_version", "expected_cohort", "delta")
    FOG_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COHORT_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    fog: str
    round: int
    base_version: Version
    expected_cohort: float
    delta: bytes
    def __init__(self, fog: _Optional[str] = ..., round: _Optional[int] = ..., base_version: _Optional[_Union[Version, _Mapping]] = ..., expected_cohort: _Optional[float] = ..., delta: _Optional[bytes] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("verdict", "reason", "shared")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Ack.Verdict]
        ACCEPTED: _ClassVar[Ack.Verdict]
        DUPLICATE: _ClassVar[Ack.Verdict]
        REFUSED: _ClassVar[Ack.Verdict]
    UNSPECIFIED: Ack.Verdict
    ACCEPTED: Ack.Verdict
    DUPLICATE: Ack.Verdict
    REFUSED: Ack.Verdict
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    verdict: Ack.Verdict
    reason: str
    shared: Version
    def __init__(self, verdict: _Optional[_Union[Ack.Verdict, str]] = ..., reason: _Optional[str] = ..., shared: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class PollRequest(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: Version
    def __init__(self, known: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class PollReply(_message.Message):
    __slots__ = ("latest_release", "manifest_sha256", "shared", "shared_adapter", "distilling")
    LATEST_RELEASE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    SHARED_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DISTILLING_FIELD_NUMBER: _ClassVar[int]
    latest_release: int
    manifest_sha256: bytes
    shared: Version
    shared_adapter: bytes
    distilling: bool
    def __init__(self, latest_release: _Optional[int] = ..., manifest_sha256: _Optional[bytes] = ..., shared: _Optional[_Union[Version, _Mapping]] = ..., shared_adapter: _Optional[bytes] = ..., distilling: _Optional[bool] = ...) -> None: ...

class FileRequest(_message.Message):
    __slots__ = ("release", "name", "offset")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    release: int
    name: str
    offset: int
    def __init__(self, release: _Optional[int] = ..., name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
