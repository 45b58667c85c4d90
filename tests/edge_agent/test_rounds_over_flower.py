"""An agent process and a fog's real Fleet API: rounds asked over Flower, answered by a real learner."""

import threading
import time

import numpy as np
import pytest

from fog_aggregator.drivers import held_pulls
from fog_aggregator.drivers.device_routes import DeviceRoutes
from fog_aggregator.drivers.flower_superlink import EmbeddedSuperlink
from fog_aggregator.drivers.journal_file import JournalFile
from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.drivers.sqlite_enrolment import SqliteEnrolment
from learning_core.params import norm, zeros
from learning_core.updates import ModelVersion
from protos.codec import encode_tensors
from protos.flower_records import (
    QUERY_STATUS,
    TRAIN,
    Declined,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_device_status,
    decode_train_reply,
    encode_status_query,
    encode_train_request,
)
from protos.learner_records import CHECKPOINT, decode_checkpoint
from protos.state_folder import write_atomically

pytestmark = pytest.mark.system
PATIENCE_S = 120.0  # a learner stands back for whatever else a machine does; on a busy one, starting takes long too
LEARNING = """
            [learning]
            steps = 24
            slice_steps = 3
            patience_s = 0.5
            [privacy]
            max_epsilon = 1e9
"""


class Site:
    """A fog without rounds of its own: enrolment, releases and Flower, and one device that knows it."""

    def __init__(self, folder, certificate, stand_in, published):
        self.fog = folder / "fog"
        self.fog.mkdir()
        self.file = JournalFile(self.fog)
        enrolment = SqliteEnrolment(self.file)
        (self.fog / "releases").mkdir()
        (self.fog / "releases/1").symlink_to(published)
        mirror = ReleaseMirror(self.fog / "releases", stand_in.PUBLIC_KEY)
        routes = DeviceRoutes("fog-a", enrolment, mirror, self.enroll)
        self.superlink = EmbeddedSuperlink(self.fog, "127.0.0.1", 0, *certificate, routes)
        self.shapes = mirror.latest()[1]
        address = f"127.0.0.1:{self.superlink.port}"
        self.machine = stand_in.Machine(folder, address, certificate[0], enrolment.make_token(), LEARNING)

    def enroll(self, key, name):
        return self.superlink.enroll(key, name)

    def wait_online(self):
        until = time.monotonic() + PATIENCE_S
        while not self.superlink.online():
            assert time.monotonic() < until
            time.sleep(0.1)
        (node,) = self.superlink.online()
        return node

    def ask(self, kind, content, timeout_s=PATIENCE_S):
        """Push to the device and wait for its reply."""
        (message_id,) = self.superlink.push(kind, {self.wait_online(): content}, timeout_s)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for reply in self.superlink.pull([message_id], 1.0):
                assert reply.error == ""
                return reply.content
        pytest.fail(f"no reply; the log says\n{(self.machine.folder / 'log').read_text()}")

    def query(self):
        return decode_device_status(self.ask(QUERY_STATUS, encode_status_query(StatusQuery("fog-a", 1, ""))))

    def request(self, round_):
        request = TrainRequest("fog-a", round_, ModelVersion(1), zeros(self.shapes), 0.5, 0.5, 0.5, PATIENCE_S)
        return encode_train_request(request)

    def train(self, round_):
        return decode_train_reply(self.ask(TRAIN, self.request(round_)), self.shapes)

    def step(self):
        """Where the fit at hand stands."""
        found = list((self.machine.state / "learning").glob(f"*/{CHECKPOINT}"))
        return decode_checkpoint(found[0].read_bytes()).step if found else 0

    def close(self):
        self.machine.close()
        self.superlink.close()
        self.file.close()


@pytest.fixture
def site(tmp_path, certificate, stand_in, flow_folder, monkeypatch):
    monkeypatch.setattr(held_pulls, "OFFLINE_AFTER_HANG_UP_S", PATIENCE_S)
    site = Site(tmp_path, certificate, stand_in, flow_folder)
    rng = np.random.default_rng(0)
    tensors = {
        "features": rng.uniform(-1, 1, (60, 1, 8, 8)).astype(np.float32),
        "conditions": rng.integers(5, 10, 60),
    }
    write_atomically(site.machine.spool / "a.safetensors", encode_tensors(tensors))
    site.machine.start()
    site.machine.wait_for(
        lambda now: now["decisions"]["now"]["reason"] == "ready" and now["samples"]["seen"] == 60, PATIENCE_S
    )
    yield site
    site.close()


def test_a_device_says_it_is_ready_trains_is_charged_and_serves_what_it_learned(site):
    status = site.query()
    assert (status.ready, status.release) == (True, 1)
    reply = site.train(1)
    assert isinstance(reply, Trained)
    assert 0 < norm(reply.update.update.delta) <= 0.5 * (1 + 1e-6)
    assert reply.update.update.num_examples == status.samples_kept
    again = site.train(1)
    assert isinstance(again, Trained)
    assert all((again.update.update.delta[name] == value).all() for name, value in reply.update.update.delta.items())
    now = site.machine.status()
    assert now["release"]["adapted"]
    assert (now["rounds"]["updates"], now["privacy"]["rounds"]) == (1, 1)
    assert now["samples"]["trained"] == status.samples_kept
    assert now["rss_mb"]["agent"] <= 160
    assert 100 < now["rss_mb"]["learner_peak"] < 600


def test_requests_are_answered_while_the_device_trains(site):
    done = threading.Thread(target=site.train, args=(1,))
    done.start()
    while not site.step():
        time.sleep(0.05)
    assert site.query().reason.startswith("busy")
    drawn = site.machine.command("infer", "--state", str(site.machine.state), "--condition", "1", "--json")
    assert drawn.returncode == 0
    done.join()


def test_heat_in_the_middle_of_training_kills_the_learner_and_declines_the_round(site):
    replies = []
    asked = threading.Thread(target=lambda: replies.append(site.train(1)))
    asked.start()
    while not site.step():
        time.sleep(0.02)
    site.machine.heat(80.0)
    asked.join(PATIENCE_S)
    assert isinstance(replies[0], Declined)
    assert "80.0 °C" in replies[0].reason
    now = site.machine.status()
    assert now["learner_pid"] is None
    assert now["decisions"]["counts"]["wait.heat"] == 1
    assert now["privacy"]["rounds"] == 0
    assert not site.query().ready
    site.machine.heat(45.0)
    site.machine.wait_for(lambda now: now["decisions"]["now"]["reason"] == "ready")
    assert isinstance(site.train(2), Trained)


def test_an_agent_killed_in_the_middle_of_training_goes_on_and_the_round_is_charged_once(site):
    replies = []
    asked = threading.Thread(target=lambda: replies.append(site.train(1)))
    asked.start()
    while site.step() < 6:
        time.sleep(0.02)
    site.machine.agents[0].kill()
    site.machine.agents[0].wait()
    stopped_at = site.step()
    site.machine.start()
    lowest = stopped_at
    while asked.is_alive():
        lowest = min(lowest, site.step())
        asked.join(0.05)
    assert lowest == stopped_at >= 6  # nothing was learned twice
    assert isinstance(replies[0], Trained)
    now = site.machine.status()
    assert (now["rounds"]["updates"], now["privacy"]["rounds"]) == (1, 1)
    assert now["samples"]["seen"] == 60
