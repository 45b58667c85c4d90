"""A door for programs on the same device that speak HTTP: the operations of the control socket, on loopback alone.

A browser on the device must not come in for a page of somebody else: who names another host than this one (DNS
rebinding) or comes from a page (Origin) is refused, and nothing is ever allowed by CORS. Others on the device need the
bearer token, a file that only the agent's user can read.
"""

import contextlib
import hmac
import json
import logging
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.drivers.http_limits import IDLE_S, MAX_HEAD_BYTES, Head, Incoming, Refusal
from edge_agent.drivers.plain_files import read_plain
from edge_agent.operations import Operation
from edge_agent.png import png_of
from learning_core.errors import DewfallError, Malformed, PortInUse, StateError
from protos.state_folder import write_atomically

log = logging.getLogger(__name__)
MAX_CALLERS = 8
MAX_BODY_BYTES = 4 << 20
SMALL_BYTES = 64 << 10  # of a body that is answered beside any other
REQUEST_WITHIN_S = 10.0  # from a request's first byte to its last
LINGER_S = 0.5
TOKEN_FILE = "http.token"  # noqa: S105
PATHS = {"/v1/status": "GET", "/v1/infer": "POST", "/v1/observe": "POST"}
LENGTH = re.compile(r"\d{1,12}", re.ASCII)
PNG, RAW, JSON = "image/png", "application/octet-stream", "application/json"


class HttpDoor:
    """Answers from threads of its own, until closed. Saved as the token, made at the first start."""

    def __init__(self, address: str, operations: Mapping[str, Operation], token: str | None) -> None:
        """`address`: of loopback, with a port (0: any); `token` None lets every program of the device in.

        Raises PortInUse.
        """
        host, _, port = address.rpartition(":")
        self._server = _Server((host.strip("[]"), int(port)), operations, token)
        self.port = self._server.server_address[1]
        serve = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        serve.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def token_in(state: Path) -> str:
    """The door's token, made if there is none. Raises StateError."""
    path = state / TOKEN_FILE
    with contextlib.suppress(FileNotFoundError):
        try:
            token = read_plain(path, 1024).decode("ascii").strip()
        except (Malformed, UnicodeDecodeError) as error:
            raise StateError(f"{path} cannot be read as a token; remove it, and start the agent again") from error
        if len(token) < 32 or path.stat().st_mode & 0o077:
            raise StateError(f"{path} is too short, or others can read it; remove it, and start the agent again")
        return token
    token = secrets.token_urlsafe(32)
    write_atomically(path, f"{token}\n".encode(), 0o600)
    return token


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], operations: Mapping[str, Operation], token: str | None) -> None:
        self.operations = operations
        self.token = token
        self.places = threading.BoundedSemaphore(MAX_CALLERS)
        self.large = threading.Lock()  # JSON takes many times its bytes until it has been used: room for one large tree
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, _Caller)
        except OSError as error:
            text = f"nothing can listen on {address[0]}:{address[1]} ({error.strerror}); set another serving.http"
            raise PortInUse(text) from error

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a caller was cut off", exc_info=True)

    def server_bind(self) -> None:
        """Without the name server that http.server asks for its own name."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


def _status_of(answer: Mapping[str, Any]) -> HTTPStatus:
    """Programs that look at nothing else are to see that they have to wait, or that nothing they sent was any good."""
    if answer.get("wait"):
        return HTTPStatus.TOO_MANY_REQUESTS
    return HTTPStatus.UNPROCESSABLE_ENTITY if answer.get("refused") and not answer["taken"] else HTTPStatus.OK


class _Caller(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._incoming = Incoming(self.connection)
        self.rfile = self._head = Head(self._incoming)

    def handle_one_request(self) -> None:
        self._incoming.begin(IDLE_S)
        self._head.left = MAX_HEAD_BYTES
        self.requestline, self.request_version, self.command, self.close_connection = "", "", "", True
        try:
            if not self._head.peek(1):
                return
            self._incoming.begin(REQUEST_WITHIN_S)
            self.raw_requestline = self._head.readline()
            if self.raw_requestline and self.parse_request():
                self._answer()
        except Refusal as refusal:
            self.close_connection = True  # what follows may be the rest of what was not read
            self.request_version = self.protocol_version  # also for who spoke none
            self._send(refusal.status, {"error": str(refusal)}, b"", JSON)
            self._linger()
        except (TimeoutError, ConnectionError):
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        """Only who may come in is asked for the rest."""
        self._check()
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        raise Refusal(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def version_string(self) -> str:
        return "dewfall"

    def log_message(self, *_: Any) -> None:
        """Nothing: who asks what is nobody's business."""

    def _answer(self) -> None:
        self._check()
        operation = self.server.operations[self.path.removeprefix("/v1/")]
        data = self._body() if self.command == "POST" else b"{}"
        with self.server.large if len(data) > SMALL_BYTES else contextlib.nullcontext():
            answer, payload = self._operate(operation, data)
        self._send(_status_of(answer), answer, payload, self._kind())

    def _operate(self, operation: Operation, data: bytes) -> tuple[Mapping[str, Any], bytes]:
        header = self._header(data)
        try:
            return operation(header)
        except DewfallError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        except (OSError, Refusal):
            raise
        except Exception as error:
            log.exception("%s failed", self.path)
            text = "the agent failed at this; its log says why"
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, text) from error

    def _check(self) -> None:
        """Who asks, from where, and for what. Raises Refusal."""
        if self.request_version not in {"HTTP/1.0", "HTTP/1.1"}:
            raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "speak HTTP/1.1")
        hosts = self.headers.get_all("Host") or [""]
        if len(hosts) != 1 or hosts[0].rpartition(":")[0] not in {"127.0.0.1", "localhost", "[::1]"}:
            raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, "name 127.0.0.1 or localhost, with the port, as the host")
        if hosts[0].rpartition(":")[2] != str(self.server.server_port):
            raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, "the host has another port than this one")
        if "Origin" in self.headers or self.headers.get("Sec-Fetch-Site", "none") != "none":
            raise Refusal(HTTPStatus.FORBIDDEN, "pages of a browser are not let in")
        token = self.server.token
        if token is not None:
            given = self.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                raise Refusal(HTTPStatus.UNAUTHORIZED, f"send the token in <state>/{TOKEN_FILE} as a bearer token")
        if (wanted := PATHS.get(self.path)) is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is nothing here; there are {', '.join(sorted(PATHS))}")
        if self.command != wanted:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"ask {self.path} with {wanted}")

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not LENGTH.fullmatch(lengths[0]):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "say how long the body is, once, with Content-Length")
        if (length := int(lengths[0])) > MAX_BODY_BYTES:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body takes at most {MAX_BODY_BYTES} bytes")
        if self.headers.get_content_type() != JSON:
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {JSON}")
        return self._head.read(length)

    def _header(self, data: bytes) -> Mapping[str, Any]:
        """What the operation is asked, as the control socket's callers would write it."""
        try:
            tree = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {str(error)[:120]}") from error
        if not isinstance(tree, dict):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the body has to be a JSON object")
        if self.path == "/v1/observe" and "observations" not in tree:
            return {"observations": [tree]}
        return tree

    def _kind(self) -> str:
        accepts = [each.partition(";")[0].strip() for each in self.headers.get("Accept", "").split(",")]
        return next((each for each in accepts if each in {PNG, RAW}), JSON) if self.path == "/v1/infer" else JSON

    def _send(self, status: HTTPStatus, answer: Mapping[str, Any], payload: bytes, kind: str) -> None:
        """An answer's JSON; with a payload its samples as nested lists, as a picture, or as they are."""
        shape = answer.get("shape")
        if kind == JSON:
            samples = np.frombuffer(payload, "<f4").reshape(shape).tolist() if payload else None
            data = json.dumps({**answer, **({"samples": samples} if payload else {})}).encode()
        else:
            data = png_of(np.frombuffer(payload, "<f4").reshape(shape)) if kind == PNG else payload
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if kind == RAW:
            self.send_header("X-Shape", ",".join(map(str, shape or ())))
        if status is HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", "1")
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.connection.settimeout(REQUEST_WITHIN_S)
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.end_headers()
            self.wfile.write(data)

    def _linger(self) -> None:
        """Let a caller who is still sending read why that is in vain, before the connection is cut."""
        self._incoming.begin(LINGER_S)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            left = MAX_BODY_BYTES
            while left > 0 and (data := self._head.read1(1 << 16)):
                left -= len(data)
