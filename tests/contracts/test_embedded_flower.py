"""A fog and its devices as processes: what has to go on when one of them is killed."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from fog_aggregator.drivers.public_port import PublicPort
from learning_core.errors import PortInUse
from simulations.bench.fog_and_device import HOST
from simulations.bench.small_fleet import SmallFleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[SmallFleet]:
    """One fog and two devices, each a process of its own, whose training takes a second."""
    with SmallFleet(tmp_path_factory.mktemp("fleet"), devices=2, payload="adapter", train_s=1.0) as running:
        yield running


def test_a_round_of_two_devices_is_queried_and_trained(fleet):
    outcome = fleet.ask(do="round", number=1)
    assert outcome["trained"] == 2
    assert outcome["query_s"] < 1.0 < outcome["train_s"] < 5.0


def test_the_fog_has_no_torch_and_keeps_to_its_memory(fleet):
    assert fleet.ask(do="modules") == {"torch": False}
    assert psutil.Process(fleet.fog.pid).memory_info().rss < 180e6


def test_a_killed_fog_comes_back_with_the_same_nodes_and_the_devices_find_it(fleet):
    before, devices = dict(fleet.nodes), {index: member.pid for index, member in fleet.members.items()}
    fleet.kill_fog()
    time.sleep(0.5)
    fleet.start_fog()
    assert fleet.nodes == before
    assert fleet.wait_online(2) < 4.0  # about one of the devices' longest pauses, on a busy machine
    assert fleet.ask(do="round", number=2)["trained"] == 2
    assert all(psutil.pid_exists(pid) for pid in devices.values())


def test_a_device_killed_while_it_trains_is_asked_again_when_it_is_back(fleet):
    with _later(0.5, lambda: (fleet.members[0].kill(), fleet.members[0].communicate(), fleet.start_device(0))):
        assert fleet.ask(do="round", number=3)["trained"] == 2


def test_a_second_fog_on_the_same_port_is_told_so(fleet):
    with pytest.raises(PortInUse, match=str(fleet.port)):
        PublicPort(HOST, fleet.port, fleet.folder / "fog.crt", fleet.folder / "fog.key", {})


@contextlib.contextmanager
def _later(delay_s: float, act: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(delay_s, act)
    timer.start()
    yield
    timer.join()
