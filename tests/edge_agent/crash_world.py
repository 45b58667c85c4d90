"""What stands around a device whose life is lived again and again: people, programs, a fog, and what they know."""

import hashlib
import itertools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from crash_points import REAL
from stand_in_release import PUBLIC_KEY, centres, good_adapter, make_release

from edge_agent import app
from edge_agent.config import AgentSettings
from edge_agent.drivers import models
from edge_agent.drivers.fog_http import FogHttp
from edge_agent.drivers.learner_process import LearnerProcess
from edge_agent.guard import Guard
from edge_agent.values import Action, Quality, Reading, Telemetry
from protos.learner_records import CHECKPOINT, Checkpoint, Progress, encode_checkpoint
from protos.state_folder import write_atomically

FILES = {"a": 20, "b": 10, "c": 12, "d": 9, "e": 7, "f": 6}
CLASSES = {"a": (5, 6, 7), "b": (5, 6), "c": (5, 7), "d": (7, 8), "e": (5, 9), "f": (0,)}
FORGOTTEN = 6
RELEASES = {1: {}, 2: {"rows": -centres()}, 3: {}, 4: {}}  # the second is signed and draws the opposite of what it says
OFFLOADED = 5
GIVEN = {"joules": 3.0, "bytes": 70_000}


def samples_of(name):
    """The features and conditions of one file of the stream."""
    rng = np.random.default_rng(ord(name))
    features = rng.standard_normal((FILES[name], 1, 4, 4), np.float32)
    return features, np.array([CLASSES[name][at % len(CLASSES[name])] for at in range(FILES[name])], np.int64)


def publish(folder):
    """What the fog's mirror holds in every life."""
    for version, changes in RELEASES.items():
        make_release(folder / str(version), version, **changes)


class World:
    """What people, programs and the fog know of a device: a log that outlives every kill."""

    def __init__(self, folder, published):
        self.folder, self.published = folder, published
        self.state, self.spool = folder / "state", folder / "state" / "spool"
        self._log = REAL["open"](folder / "world.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(self, line):
        REAL["write"](self._log, f"{line}\n".encode())

    def told(self, start=""):
        lines = (self.folder / "world.log").read_text().splitlines()
        return [line for line in lines if line.startswith(start)]

    def once(self, line, deed):
        """Do something unless it was done and known in an earlier life."""
        if line not in self.told():
            deed()
            self.tell(line)

    def answer(self, request):
        """The fog's HTTP side."""
        *_, version, name = request.url.path.split("/")
        if name == "enroll":
            self.tell(f"enrolled {hashlib.sha256(request.content).hexdigest()}")
            return httpx.Response(200, stream=httpx.ByteStream(b'{"node_id": "7", "fog": "fog-a"}'))
        return httpx.Response(200, stream=httpx.ByteStream((self.published / version / name).read_bytes()))


class StandInLearner(LearnerProcess):
    """Learns at once; the job's folder is the real one."""

    def _attempt(self, command, decision, _):
        if (now := decision()).action is not Action.TRAIN:
            return now
        checkpoint = Checkpoint(command.steps, good_adapter(), {})
        write_atomically(Path(command.folder) / CHECKPOINT, encode_checkpoint(checkpoint))
        return Progress(command.steps, 0.5, 10.0)


class Thermometer:
    """A device at 40 °C on mains."""

    def read(self):
        def at(value):
            return Reading(value, "", 0.0, Quality.OK, "stand-in")

        return Telemetry(at(40.0), at(0.0), at(1.0), at(1.0))


def settings_of(world):
    tree = {
        "name": "device-1",
        "state": world.state,
        "fog": {"address": "127.0.0.1:9", "ca": world.folder / "ca", "release_key": PUBLIC_KEY.hex(), "token": "good"},
        "memory": {"keep_share": 1.0, "duplicate_below": 1e-6},
        "limits": {"min_dwell_s": 0.0, "max_memory_pressure": None},
        "privacy": {"max_epsilon": 1e3},
        "telemetry": {"root": world.folder},
        "serving": {"max_joules_per_day": 1e6},
    }
    return AgentSettings.model_validate(tree)


def stand_in(world, put=setattr):
    """Put the surroundings in place of the drivers that reach out of this process."""

    def fog(address, _):
        http = FogHttp.__new__(FogHttp)
        http._address, http._lock, http._received = address, app.threading.Lock(), 0
        http._http = httpx.Client(base_url=f"https://{address}", transport=httpx.MockTransport(world.answer))
        return http

    put(app, "FogHttp", fog)
    put(
        models, "Guard", lambda: Guard(clock=itertools.count().__next__)
    )  # how long a shared processor took is no matter
    put(app, "LearnerProcess", StandInLearner)
    put(app, "SysfsTelemetry", lambda *_: Thermometer())
    put(app, "FleetLink", lambda *_: SimpleNamespace(traffic=lambda: (0, 0), trouble=""))
