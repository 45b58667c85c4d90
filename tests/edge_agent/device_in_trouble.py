"""A device in this process, for tests that bring it into trouble."""

import os
from contextlib import contextmanager

import crash_checks
import crash_life
import crash_world
import pytest
from stand_in_release import manifest_digest

from edge_agent import app

is_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount or act for another user")


def publish(tmp_path_factory):
    """Releases for many devices; their folder."""
    folder = tmp_path_factory.mktemp("published")
    crash_world.publish(folder)
    return folder


@contextmanager
def at_work(folder, published, monkeypatch):
    """A device that serves, keeps samples and has answered a round."""
    device = Device(folder, published, monkeypatch)
    device.install(1)
    device.drop("a")
    device.answer(1)
    yield device
    device.close()


class Device:
    """An agent in this process, with its surroundings."""

    def __init__(self, folder, published, monkeypatch):
        folder.mkdir(exist_ok=True)
        self.world = crash_world.World(folder, published)
        crash_world.stand_in(self.world, monkeypatch.setattr)
        self.agent = None
        self.start()

    def start(self):
        if self.agent is not None:
            self.agent.close()
        self.agent = None
        self.agent = app.Agent(crash_world.settings_of(self.world))

    def close(self):
        if self.agent is not None:
            self.agent.close()
        os.close(self.world._log)

    def install(self, version):
        self.agent._upgrade.announce(version, manifest_digest(self.world.published / str(version)))
        self.agent._upgrade.step()
        crash_life.pass_trials(self.agent)

    def drop(self, name):
        crash_life.drop(self.agent, self.world, name)

    def answer(self, round_):
        crash_life.answer_round(self.agent, self.world, round_)

    def serves(self):
        """The version that answers."""
        assert crash_checks.drawn_of(self.agent).shape == (1, 1, 4, 4)
        return self.agent.status()["release"]["version"]

    def seen(self):
        return self.agent.status()["samples"]["seen"]
