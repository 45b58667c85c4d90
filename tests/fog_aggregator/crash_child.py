"""A fog on a virtual clock in a process of its own, for the tests that kill it. Prints what it has when it is done."""

import json
import os
import sys
from pathlib import Path

import numpy as np

from fog_aggregator.config import Rounds
from fog_aggregator.drivers.failpoint import failpoint
from fog_aggregator.plans import Budget, Terms
from learning_core.federation.privacy import clip
from learning_core.params import zeros
from learning_core.updates import Aggregate, ModelVersion, Update
from protos.codec import decode_params, encode_params
from protos.flower_records import DeviceStatus, Trained
from protos.release import verify_release
from protos.state_folder import write_atomically
from simulations.site import SimulatedCloud, SimulatedSite


class Device:
    def __init__(self, shapes, place):
        self._shapes, self._place = shapes, place

    def adapter_shapes(self):
        return self._shapes

    def status(self, query):
        return DeviceStatus(True, "", query.latest_release, 1, {})

    def train(self, request):
        delta = zeros(self._shapes)
        next(iter(delta.values())).flat[self._place] = 0.25
        return Trained(request.round, clip(Update(delta, 1, request.base_version), request.clip_norm), {})


def cloud_on_disk(folder: Path, release: Path, key: bytes) -> SimulatedCloud:
    """A cloud that outlives this process: each aggregate it has counted is a file."""
    cloud = SimulatedCloud(key)
    cloud.publish(release)
    folder.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        cloud.push(Aggregate(decode_params(path.read_bytes()), 2.0, ModelVersion(1), "fog-a", int(path.stem)))
    cloud.on_kept = lambda each: write_atomically(folder / f"{each.round}.safetensors", encode_params(each.delta))
    return cloud


def main() -> None:
    folder, release, key, rounds = Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3]), int(sys.argv[4])
    shapes = verify_release(release, key).adapter_shapes
    cloud = cloud_on_disk(folder / "cloud", release, key)
    devices = {"a": Device(shapes, 0), "b": Device(shapes, 1)}
    site = SimulatedSite(
        folder / "fog",
        "fog-a",
        cloud,
        key,
        devices,
        Terms(1.0, 0.0, 1.0),
        Budget(1e-5, float("inf")),
        Rounds(patience_s=2.0),
        reached=failpoint(os.environ),
    )
    while len(cloud.kept) < rounds or site.journal.waiting() or site.journal.unsettled() is not None:
        site.turn()
    base = site.journal.base()
    assert base is not None

    def first_two(params):
        return np.asarray(params["head.lora_B"]).ravel()[:2].tolist()

    result = {
        "kept": [number for _, number in sorted(cloud.kept)],
        "aggregates": [first_two(cloud.kept[key].delta) for key in sorted(cloud.kept)],
        "shared": first_two(base.shared),
        "charges": [history[0].rounds for history in site.journal.histories().values()],
    }
    print(json.dumps(result))  # noqa: T201


main()
