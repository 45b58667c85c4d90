"""What a caller of the HTTP door may send: so many bytes of a head, and all of a request within its time."""

import io
import socket
import time
from http import HTTPStatus
from typing import Any

MAX_HEAD_BYTES = 16 << 10
IDLE_S = 30.0  # that a connection may be kept without a request


class Refusal(Exception):
    """A request that is answered with an error and nothing else."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Incoming(io.RawIOBase):
    """What a caller sends, until the deadline; whoever is silent or slow beyond it is cut off."""

    def __init__(self, caller: socket.socket) -> None:
        self._caller = caller
        self.begin(IDLE_S)

    def begin(self, within_s: float) -> None:
        self.until = time.monotonic() + within_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._caller.settimeout(left_s)
        return self._caller.recv_into(buffer)


class Head(io.BufferedReader):
    """Counts what the lines of a request's head take together."""

    left = MAX_HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(min(self.left + 1, size if size is not None and size >= 0 else self.left + 1))
        self.left -= len(line)
        if self.left < 0:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
        return line
