"""A fleet under Flower's own simulation engine: the same ClientApps as on devices, no sockets, one process.

Flower knows one backend, Ray, and finds it by its module's name. `inline` puts a backend of four methods in that place,
so that nothing more has to be installed and a fleet starts in a second; `ray` is Flower's own, when it is installed.
"""

import importlib.util
import logging
import os
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.serverapp import Grid, ServerApp

from edge_agent.session import Device, make_client_app
from learning_core.errors import ConfigError, DewfallError
from protos.flower_records import QUERY_STATUS

BackendName = Literal["inline", "ray"]
Ask = Callable[[str, Mapping[int, RecordDict]], Mapping[int, RecordDict]]  # kind, payload by device -> reply by device

_WHERE = "query.place"
_POLL_S = 0.01
_START_LIMIT_S = 60.0


def run_devices(devices: Sequence[Device], loop: Callable[[Ask], None], backend: BackendName | str) -> None:
    """Have `loop` ask the devices (by their index) until it returns. With Ray they are copied, and live in the copies.

    Raises DewfallError when a device fails, ConfigError when the backend is not there.
    """
    over = threading.Event()  # the engine can end before the loop does, when it fails

    def serve(grid: Grid) -> None:
        places = _ask(grid, _WHERE, {node: RecordDict() for node in grid.get_node_ids()}, over)
        node_of = {int(content["config"]["place"]): node for node, content in places.items()}
        index_of = {node: index for index, node in node_of.items()}

        def ask(kind: str, payloads: Mapping[int, RecordDict]) -> Mapping[int, RecordDict]:
            replies = _ask(grid, kind, {node_of[index]: content for index, content in payloads.items()}, over)
            return {
                index_of[node]: content for node, content in sorted(replies.items(), key=lambda it: index_of[it[0]])
            }

        loop(ask)

    try:
        run_simulation(lambda index: make_client_app(devices[index]), serve, len(devices), backend)
    finally:
        over.set()


def run_simulation(
    client_app_factory: Callable[[int], ClientApp],
    server_loop: Callable[[Grid], None],
    num_nodes: int,
    backend: BackendName | str = "inline",
) -> None:
    """Run `server_loop` on the grid of a fleet whose node i (0..num_nodes-1) answers with `client_app_factory(i)`."""
    if backend not in ("inline", "ray"):
        raise ConfigError(f"there is no simulation backend {backend[:40]!r}; choose inline or ray")
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed; install dewfall[ray], or choose the backend inline")
    server_app = ServerApp()

    @server_app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, _: Context) -> None:
        until_s = time.monotonic() + _START_LIMIT_S
        while len(list(grid.get_node_ids())) < num_nodes:  # the engine starts this loop before it has made the nodes
            if time.monotonic() > until_s:
                raise DewfallError(f"Flower's simulation made no {num_nodes} nodes within {_START_LIMIT_S:.0f} s")
            time.sleep(_POLL_S)
        server_loop(grid)

    with _quiet_flower() as run_flower, _inline_backend(backend == "inline"):
        run_flower(server_app, _of_all_nodes(client_app_factory), num_supernodes=num_nodes, backend_name=backend)


def _of_all_nodes(factory: Callable[[int], ClientApp]) -> ClientApp:
    """One app for all nodes, as the engine wants it; each is made where it is first used."""
    apps: dict[int, ClientApp] = {}

    def route(message: Message, context: Context) -> Message:
        place = int(context.node_config["partition-id"])
        if place not in apps:
            apps[place] = factory(place)
        return apps[place](message, context)

    def where(message: Message, context: Context) -> Message:
        place = int(context.node_config["partition-id"])
        return Message(RecordDict({"config": ConfigRecord({"place": place})}), reply_to=message)

    app = ClientApp()
    app.query(QUERY_STATUS.split(".")[1])(route)
    app.query(_WHERE.split(".")[1])(where)
    app.train()(route)
    return app


def _ask(grid: Grid, kind: str, payloads: Mapping[int, RecordDict], over: threading.Event) -> dict[int, RecordDict]:
    """Contents of all replies. Raises DewfallError at the first node that fails, or when the simulation is over."""
    missing = set(grid.push_messages([Message(content, node, kind) for node, content in payloads.items()]))
    replies: dict[int, RecordDict] = {}
    while missing:
        if over.wait(_POLL_S):
            raise DewfallError("Flower's simulation ended before all devices had answered")
        for message in grid.pull_messages(missing):
            missing.discard(message.metadata.reply_to_message_id)
            if message.has_error():
                raise DewfallError(f"a simulated device failed: {message.error.reason}")
            replies[message.metadata.src_node_id] = message.content
    return replies


class InlineBackend(Backend):  # type: ignore[misc]
    """Answers one message after the other in the engine's own thread. Nothing is saved."""

    def __init__(self, backend_config: Any) -> None:
        super().__init__(backend_config)
        self._app: ClientApp | None = None

    @property
    def num_workers(self) -> int:
        return 1

    def is_worker_idle(self) -> bool:
        return True

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        self._app = app_fn()

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        assert self._app is not None
        return self._app(message, context), context

    def terminate(self) -> None:
        self._app = None


@contextmanager
def _inline_backend(wanted: bool) -> Iterator[None]:
    """Ours where the engine looks for Ray's, for as long as the block runs."""
    name = "flwr.server.superlink.fleet.vce.backend.raybackend"
    before = sys.modules.get(name)
    if wanted:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].RayBackend = InlineBackend  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if wanted:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before


@contextmanager
def _quiet_flower() -> Iterator[Callable[..., None]]:
    """Flower's entry to its simulation, without its messages to developers and without its calls home."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from flwr.simulation import run_simulation as run_flower  # noqa: PLC0415
    from flwr.supercore import telemetry  # noqa: PLC0415

    logger = logging.getLogger("flwr")
    level, enabled = logger.level, telemetry.FLWR_TELEMETRY_ENABLED
    logger.setLevel(logging.CRITICAL)
    telemetry.FLWR_TELEMETRY_ENABLED = "0"
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", kind)
            yield run_flower
    finally:
        logger.setLevel(level)
        telemetry.FLWR_TELEMETRY_ENABLED = enabled
