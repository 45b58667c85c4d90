"""Stock Flower as its documentation starts it: flower-superlink, flower-supernodes, and a FedAvg app by `flwr run`.

The same array, trivial training too, no TLS and no keys (in its favour). The app plays a round whenever it is asked to,
so that its rounds can be timed between ours, on the same machine in the same minutes.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from learning_core.errors import DewfallError
from simulations.demo.processes import environment, last_lines

_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "stockround"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "dewfall"
[tool.flwr.app.components]
serverapp = "stockround.server:app"
clientapp = "stockround.client:app"
[tool.flwr.app.config]
folder = ""
nodes = 0
"""
_CLIENT = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    arrays = ArrayRecord([value * 0.01 for value in message.content["arrays"].to_numpy_ndarrays()])
    metrics = MetricRecord({"num-examples": 60, "loss": 0.5})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
"""
_SERVER = """
import json, time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    folder, nodes = Path(context.run_config["folder"]), int(context.run_config["nodes"])
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.1)
    (folder / "ready").touch()
    arrays = ArrayRecord([np.ones(100_000, np.float32)])
    number = 0
    while not (folder / "end").exists():
        if not (folder / f"go-{number}").exists():
            time.sleep(0.02)
            continue
        began = time.perf_counter()
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=1)
        draft = folder / "draft"
        draft.write_text(json.dumps(time.perf_counter() - began))
        draft.rename(folder / f"done-{number}")
        number += 1
"""


class StockFlower:
    """A SuperLink, its SuperNodes and a run of the app; leaving the `with` block ends all of it. Nothing is saved."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        self._nodes = nodes
        self._rounds = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        app = folder / "app"
        (app / "stockround").mkdir(parents=True)
        (folder / "home").mkdir()
        (app / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
        for name, text in {"__init__": "", "client": _CLIENT, "server": _SERVER}.items():
            (app / "stockround" / f"{name}.py").write_text(text, encoding="utf-8")

    def __enter__(self) -> Self:
        try:
            self._start_all()
            self._wait_for(self._folder / "ready", 90.0)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def play_round(self) -> float:
        """Seconds of one round of Flower's FedAvg over all nodes: one train message and its reply each."""
        (self._folder / f"go-{self._rounds}").touch()
        done = self._folder / f"done-{self._rounds}"
        self._wait_for(done, 120.0)
        self._rounds += 1
        return float(json.loads(done.read_text(encoding="utf-8")))

    def stop(self) -> None:
        """End the app, then every process and whatever it started."""
        (self._folder / "end").touch()
        family: list[psutil.Process] = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                family += [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for process in self._processes:
            process.terminate()
        _, alive = psutil.wait_procs(family, timeout=6.0)
        for member in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(alive, timeout=3.0)

    def _start_all(self) -> None:
        port, *node_ports = _free_ports(1 + self._nodes)
        link = f"127.0.0.1:{port}"
        config = f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "{link}"\ninsecure = true\n'
        (self._folder / "home" / "config.toml").write_text(config, encoding="utf-8")
        where = ["--insecure", "--host", "127.0.0.1", "--port"]
        self._start("flower-superlink", *where, str(port), "--disable-runtime-dependency-installation")
        self._wait_for_port(port)
        for node_port in node_ports:
            self._start("flower-supernode", *where, str(node_port), "--superlink", link)
        settings = f'folder="{self._folder}" nodes={self._nodes}'
        self._start("flwr", "run", str(self._folder / "app"), "bench", "--stream", "--run-config", settings)

    def _start(self, command: str, *arguments: str) -> None:
        scripts = Path(sys.executable).parent
        home = {"FLWR_HOME": str(self._folder / "home"), "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
        with self._log(len(self._processes)).open("wb") as log:
            process = subprocess.Popen(
                [str(scripts / command), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment(), **home},
                start_new_session=True,
            )
        self._processes.append(process)

    def _log(self, number: int) -> Path:
        return self._folder / f"process-{number}.log"

    def _wait_for(self, path: Path, limit_s: float) -> None:
        until_s = time.monotonic() + limit_s
        while not path.exists():
            self._complain_if(time.monotonic() > until_s)
            time.sleep(0.02)

    def _wait_for_port(self, port: int) -> None:
        until_s = time.monotonic() + 60.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
            self._complain_if(time.monotonic() > until_s)
            time.sleep(0.1)

    def _complain_if(self, late: bool) -> None:
        fallen = [number for number, process in enumerate(self._processes) if process.poll() is not None]
        if late or fallen:
            log = self._log(fallen[0] if fallen else len(self._processes) - 1)
            raise DewfallError(f"stock Flower did not run; its last words were:\n{last_lines(log)}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
