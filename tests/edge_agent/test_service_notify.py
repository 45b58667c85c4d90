"""What the agent says to systemd, heard on real datagram sockets."""

import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from edge_agent.app import Agent
from edge_agent.drivers.service_notify import ALIVE, READY, tell_service_manager
from edge_agent.loops import Loops


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request, tmp_path, monkeypatch):
    """A service manager that listens, and the agent's environment pointing at it."""
    name = str(tmp_path / "notify") if request.param == "a path" else f"@dewfall-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if name.startswith("@") else name)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield manager


def heard(manager):
    words = []
    while True:
        try:
            words.append(manager.recv(256).decode())
        except BlockingIOError:
            return words


def test_each_word_is_one_datagram(manager):
    tell_service_manager(READY)
    tell_service_manager(ALIVE)
    assert heard(manager) == ["READY=1", "WATCHDOG=1"]


@pytest.mark.parametrize("name", ["", "nowhere", "/nowhere/at/all", "@nobody-listens", "@" + "x" * 200, "vsock:2:1"])
def test_a_manager_that_is_not_there_is_no_trouble(name, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    tell_service_manager(READY)


def test_a_manager_that_does_not_listen_is_not_waited_for(manager):
    began = time.monotonic()
    for _ in range(2000):
        tell_service_manager(ALIVE)
    assert time.monotonic() - began < 5
    assert 0 < len(heard(manager)) < 2000


class Device:
    """Stands for the agent around its watch loop; its looks fail, hang or succeed."""

    def __init__(self, look):
        self.stop = threading.Event()
        self._watch = SimpleNamespace(look=look)

    def watched_for(self, seconds, release=lambda: None):
        loops = Loops(self.stop)
        loops.start("watch", lambda: Agent._look(self), 0.005)
        time.sleep(seconds)
        self.stop.set()
        release()
        loops.join(5)


def test_a_watch_loop_that_hangs_says_nothing_more(manager):
    looks, gate = [], threading.Event()

    def look():
        looks.append(1)
        if len(looks) == 3:
            gate.wait(5)

    Device(look).watched_for(0.2, gate.set)
    assert heard(manager) == [ALIVE] * 3


def test_a_watch_loop_whose_looks_fail_is_alive(manager, monkeypatch):
    monkeypatch.setattr("edge_agent.loops.RETRY_S", 0.005)

    def look():
        raise OSError("the disk is full")

    Device(look).watched_for(0.1)
    assert len(heard(manager)) > 3
