"""One process of a small fleet: a fog that plays rounds when told to, or a device with trivial training.

`python -m simulations.bench.fog_and_device fog|device ...`; `SmallFleet` starts them.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import RecordDict

from fog_aggregator.ports import Fleet
from learning_core import params
from learning_core.federation.privacy import accumulate, clip
from learning_core.params import Shapes
from learning_core.updates import ModelVersion, Update
from protos.flower_records import (
    QUERY_STATUS,
    TRAIN,
    DeviceStatus,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_device_status,
    decode_train_reply,
    encode_status_query,
    encode_train_request,
)

HOST = "127.0.0.1"
_BLOCK = {"qkv": 192, "proj": 64, "fc1": 128, "fc2": 64, "ada": 256}
_REST = {"adao": 128, "tm.0": 64, "tm.2": 64}
PAYLOADS: Mapping[str, Shapes] = {
    "one array": {"weights": (100_000,)},  # 400 kB
    "adapter": {  # 77 kB: the demo's student, rank 8
        **{f"blocks.{block}.{name}.lora_B": (rows, 8) for block in range(3) for name, rows in _BLOCK.items()},
        **{f"{name}.lora_B": (rows, 8) for name, rows in _REST.items()},
        "label_rows": (5, 64),
    },
}


@dataclass(frozen=True, slots=True)
class TrivialDevice:
    """Learns nothing: its update is a hundredth of what it was sent. `train_s`: how long that takes it."""

    shapes: Shapes
    train_s: float = 0.0
    place: int = 0  # no two devices answer with the same bytes, which Flower would store and move only once

    def status(self, query: StatusQuery) -> DeviceStatus:
        return DeviceStatus(True, "", query.latest_release, 60, {"charge": 1.0, "soc_temp_c": 40.0 + self.place})

    def train(self, request: TrainRequest) -> Trained:
        time.sleep(self.train_s)
        delta = params.scale(request.shared, 0.01)
        for values in delta.values():
            values.flat[self.place] *= -1
        update = Update(delta, 60, request.base_version)
        return Trained(request.round, clip(update, request.clip_norm), {"loss": 0.5 + self.place})

    def adapter_shapes(self) -> Shapes:
        return self.shapes


def play_round(fleet: Fleet, nodes: Mapping[int, str], number: int, shapes: Shapes) -> dict[str, Any]:
    """Ask all how they are, have those who are ready train, and sum what they learned; seconds and who took part."""
    began_s = time.perf_counter()
    query = encode_status_query(StatusQuery("fog", 1, "0" * 64))
    statuses = _ask(fleet, QUERY_STATUS, dict.fromkeys(nodes, query))
    ready = [node for node, content in statuses.items() if decode_device_status(content).ready]
    asked_s = time.perf_counter()
    shared = {name: np.full(shape, number, np.float32) for name, shape in shapes.items()}
    request = encode_train_request(TrainRequest("fog", number, ModelVersion(1), shared, 1.0, 0.0, 1.0, 60.0))
    total = None
    replies = _ask(fleet, TRAIN, dict.fromkeys(ready, request))
    for content in replies.values():
        reply = decode_train_reply(content, shapes)
        if isinstance(reply, Trained):
            total = accumulate(total, reply.update)
    ended_s = time.perf_counter()
    return {
        "seconds": ended_s - began_s,
        "query_s": asked_s - began_s,
        "train_s": ended_s - asked_s,
        "trained": 0 if total is None else total.count,
    }


def _ask(fleet: Fleet, kind: str, payloads: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
    """The contents that came back within half a minute."""
    missing = fleet.push(kind, payloads, 60.0)
    answers, until_s = {}, time.monotonic() + 30.0
    while missing and (left_s := until_s - time.monotonic()) > 0:
        for reply in fleet.pull(list(missing), left_s):
            node = missing.pop(reply.message_id)
            if reply.content is not None:
                answers[node] = reply.content
    return answers


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


async def nothing_else(scope: Any, receive: Any, send: Any) -> None:
    """The fog's own routes, when there are none."""
    from fog_aggregator.drivers.public_port import answer  # noqa: PLC0415

    del scope, receive
    await answer(send, 404)


def _run_fog(folder: Path, port: int, payload: str) -> None:
    """Enrol the keys in the folder, then do what standard input says, one JSON object a line, until it ends."""
    from fog_aggregator.drivers.flower_superlink import EmbeddedSuperlink  # noqa: PLC0415 - a device needs no server

    fleet = EmbeddedSuperlink(folder / "fog", HOST, port, folder / "fog.crt", folder / "fog.key", nothing_else)
    keys = sorted(folder.glob("device-*.pub"))
    nodes = {path.stem: fleet.enroll(path.read_bytes(), path.stem) for path in keys}
    _tell({"port": fleet.port, "nodes": nodes})
    try:
        for line in sys.stdin:
            _tell(_serve(fleet, nodes, payload, json.loads(line)))
    finally:
        fleet.close()


def _tell(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _serve(fleet: Fleet, nodes: Mapping[str, int], payload: str, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "round":
            return play_round(fleet, {node: name for name, node in nodes.items()}, command["number"], PAYLOADS[payload])
        case "online":
            return {"online": len(fleet.online())}
        case "traffic":
            return dict(zip(("received", "sent"), fleet.traffic(), strict=True))
        case "modules":
            return {"torch": "torch" in sys.modules}
    raise ValueError(command)


def _run_device(key: Path, address: str, payload: str, train_s: float) -> None:
    from edge_agent.drivers.fleet_link import FleetLink  # noqa: PLC0415 - the fog has no use for it
    from edge_agent.session import make_client_app  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    app = make_client_app(TrivialDevice(PAYLOADS[payload], train_s, int(key.name.rpartition("-")[2])))
    FleetLink(address, key.parent / "ca.crt", read_key(key), app).run(stop)


def main() -> None:
    match sys.argv[1:]:
        case ["fog", folder, port, payload]:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            _run_fog(Path(folder), int(port), payload)
        case ["device", key, address, payload, train_s]:
            _run_device(Path(key), address, payload, float(train_s))


if __name__ == "__main__":
    main()
