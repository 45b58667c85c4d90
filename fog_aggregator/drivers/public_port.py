"""The one TLS port that devices see: it publishes the given paths and nothing else, counts bytes and bounds bodies."""

import asyncio
import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from learning_core.errors import ConfigError, PortInUse
from protos.codec import MAX_BYTES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyTooLarge(Exception):
    """A request's body is over the limit; raised where the body is read."""


class PublicPort:
    """Serves `apps` (path prefix -> ASGI app) from a thread of its own until `close`. Nothing is saved."""

    def __init__(
        self,
        host: str,
        port: int,
        certificate: Path,
        private_key: Path,
        apps: Mapping[str, AsgiApp],
        max_body_bytes: int = MAX_BYTES,
    ) -> None:
        self._apps = dict(apps)
        self._max_body_bytes = max_body_bytes
        self._received = self._sent = 0
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(private_key),
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{certificate} and {private_key} are not a certificate and its key ({error}); name files that are"
            ) from error
        listener = _listen(host, port)
        self.port: int = listener.getsockname()[1]
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="public-port", daemon=True)
        self._thread.start()

    def call_soon(self, act: Callable[[], None]) -> None:
        """Run `act` in the server's event loop; after `close` do nothing."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act)

    def traffic(self) -> tuple[int, int]:
        """Bytes of requests and of responses, heads and bodies, without TLS."""
        return self._received, self._sent

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.serve(sockets=[listener]))
        finally:
            listener.close()
            self._loop.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        self._received += len(scope["path"]) + 20 + _size(scope["headers"])
        body_bytes = 0

        async def counted_receive() -> MutableMapping[str, Any]:
            nonlocal body_bytes
            event = await receive()
            body_bytes += len(event.get("body", b""))
            self._received += len(event.get("body", b""))
            if body_bytes > self._max_body_bytes:
                raise BodyTooLarge
            return event

        async def counted_send(event: MutableMapping[str, Any]) -> None:
            self._sent += 20 + _size(event["headers"]) if "headers" in event else len(event.get("body", b""))
            await send(event)

        app = next((app for prefix, app in self._apps.items() if scope["path"].startswith(prefix)), None)
        if app is None:
            await answer(counted_send, 404)
        elif int(headers.get(b"content-length", b"0")) > self._max_body_bytes:
            await answer(counted_send, 413)
        else:
            try:
                await app(scope, counted_receive, counted_send)
            except BodyTooLarge:
                await answer(counted_send, 413)
            except ConnectionAbortedError:
                return


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request. Raises BodyTooLarge, or ConnectionAbortedError when the caller went away."""
    parts = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise ConnectionAbortedError
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


async def ask(app: AsgiApp, scope: Scope, body: bytes) -> tuple[int, bytes]:
    """Status and body with which an app in this process answers a request whose body was read already."""
    unread = [body]
    status, parts = 500, []

    async def receive() -> MutableMapping[str, Any]:
        if not unread:
            await asyncio.Event().wait()  # for ever: whoever waits for a hang-up is cancelled
        return {"type": "http.request", "body": unread.pop(), "more_body": False}

    async def send(event: MutableMapping[str, Any]) -> None:
        nonlocal status
        status = event.get("status", status)
        parts.append(event.get("body", b""))

    await app({**scope, "state": {}}, receive, send)
    return status, b"".join(parts)


async def answer(send: Send, status: int, body: bytes = b"", media_type: bytes = b"text/plain") -> None:
    """A whole response."""
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol's number asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is taken by another process; stop that one, or set another port"
            ) from error
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror}); set an address of this machine and a free port"
        ) from error
    return listener


def _size(headers: Any) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)
