"""The agent's door for programs on the same device: frames on a Unix socket, readable by the agent's user alone."""

import contextlib
import errno
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.operations import Operation
from learning_core.errors import DewfallError, LinkDown, Malformed, PortInUse, StateError
from protos.control import encode_frame, read_frame

log = logging.getLogger(__name__)
MAX_CALLERS = 16
BACKLOG = 64
CONNECT_WITHIN_S, SHORT_S = 5.0, 0.05
PATIENCE_S = 120.0  # how long a caller may be silent before its place goes to another
LONGEST_PATH = 100  # the kernel takes 107 bytes


class ControlSocket:
    """Answers callers from threads of their own, until closed. Nothing is saved."""

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._closed = False
        self._places = threading.BoundedSemaphore(MAX_CALLERS)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if _answers(path):
            self._listener.close()
            raise PortInUse(f"another agent answers at {path}; stop that one, or set another serving.socket")
        try:
            _remove_socket(path)  # of an agent that was killed
            os.fchmod(self._listener.fileno(), 0o600)  # before it is bound: there is no moment at which others may come
            with _reachable(path) as name:
                self._listener.bind(name)
            self._listener.listen(BACKLOG)
        except OSError as error:
            self._listener.close()
            raise StateError(f"the socket {path} cannot be made ({error.strerror}); name another one") from error
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts
        self._listener.close()
        with contextlib.suppress(OSError):
            _remove_socket(self._path)

    def _accept(self) -> None:
        while not self._closed:
            try:
                caller, _ = self._listener.accept()
            except OSError as error:
                if not self._closed:
                    log.warning("the control socket cannot take a caller: %s", error.strerror)  # too many open files
                    time.sleep(SHORT_S)
                continue
            if not self._places.acquire(blocking=False):
                caller.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(caller,), name="caller", daemon=True).start()
            except RuntimeError:  # no more threads
                self._places.release()
                caller.close()

    def _serve(self, caller: socket.socket) -> None:
        caller.settimeout(PATIENCE_S)
        try:
            with caller, caller.makefile("rb") as incoming:
                while (frame := read_frame(incoming.read)) is not None:
                    caller.sendall(encode_frame(*self._answer(frame[0])))
        except (OSError, Malformed, ValueError) as error:  # ValueError: an answer larger than a frame
            log.debug("a caller was cut off: %s", error)
        finally:
            self._places.release()

    def _answer(self, header: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes]:
        operation = self._operations.get(str(header.get("op")))
        if operation is None:
            return {"error": f"there is no such operation; there are {', '.join(sorted(self._operations))}"}, b""
        try:
            return operation(header)
        except DewfallError as error:
            return {"error": str(error)}, b""
        except Exception:
            log.exception("the operation %s failed", ascii(header.get("op"))[:80])
            return {"error": "the agent failed at this; its log says why"}, b""


class AgentLine:
    """A program's connection to the agent on the same device."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE_S)
        try:
            self._connect(path)
        except OSError as error:
            self._socket.close()
            raise LinkDown(f"no agent listens on {path}; start it with `python -m edge_agent run`") from error
        self._incoming = self._socket.makefile("rb")

    def ask(self, op: str, **details: Any) -> tuple[dict[str, Any], bytes]:
        """One operation and its answer. Raises DewfallError with the agent's own sentence, LinkDown, Malformed."""
        try:
            self._socket.sendall(encode_frame({"op": op, **details}))
            frame = read_frame(self._incoming.read)
        except OSError as error:
            raise LinkDown(f"the agent does not answer ({error}); see its log") from error
        if frame is None:
            raise LinkDown("the agent closed the connection; it has too many callers or is stopping")
        if "error" in frame[0]:
            raise DewfallError(str(frame[0]["error"]))
        return frame

    def _connect(self, path: Path) -> None:
        """Raises OSError."""
        until = time.monotonic() + CONNECT_WITHIN_S
        while True:
            try:
                with _reachable(path) as name:
                    self._socket.connect(name)
                return
            except BlockingIOError:  # so many come at once that the kernel lets nobody queue
                if time.monotonic() > until:
                    raise
                time.sleep(SHORT_S)

    def __enter__(self) -> "AgentLine":
        return self

    def __exit__(self, *_: object) -> None:
        self._incoming.close()
        self._socket.close()


def _remove_socket(path: Path) -> None:
    """Remove what another agent left, and nothing else that may lie under this name. Raises OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "something else is there")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            with _reachable(path) as name:
                probe.connect(name)
        except OSError:
            return False
    return True


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name for the socket that is short enough for the kernel."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
