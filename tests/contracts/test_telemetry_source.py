"""What every source of telemetry promises: the kernel's files of each device we know, of simulations, and stand-ins."""

import datetime
import os
from collections import deque
from dataclasses import fields

import pytest
import test_governor_stops
from crash_world import Thermometer
from device_tree import DEVICES, unpack
from test_calibration import Bench
from test_soak import Month
from test_watch import Simulated

from edge_agent.config import Limits
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.governor import Situation, decide
from edge_agent.values import Quality, Reading, Telemetry
from simulations.demo.twin import Twin
from simulations.physics import Board, DeviceState

SHARES = {"charge", "cpu_pressure", "memory_pressure"}
FLAGS = {"throttled", "plugged", "under_voltage", "metered"}
DEGREES = {"soc_temp_c", "trip_c", "battery_temp_c"}


def twin(folder, **board):
    """What the demo's physics shows of a device."""
    state = DeviceState(47.5, 35.0, charge=0.4)
    Twin("device-1", folder, folder / "spool", Board(**board), state, deque()).show()
    return SysfsTelemetry(folder, 1.0)


def bent(folder):
    """A device whose every file says something no sensor says."""
    for path in unpack("raspberry_pi_4", folder).rglob("*"):
        if path.is_file() and "bin" not in path.parts:
            path.write_bytes(b"\xff\x00-999999999999999999999999\n")
    return SysfsTelemetry(folder, 1.0)


def torn(folder):
    """Folders where files are expected, and links to nowhere."""
    for path in list(unpack("laptop_two_batteries", folder).rglob("*")):
        if path.is_file():
            path.unlink()
            path.mkdir() if len(path.name) % 2 else path.symlink_to(folder / "nowhere")
    return SysfsTelemetry(folder, 1.0)


def devices():
    known = {path.stem: lambda folder, name=path.stem: SysfsTelemetry(unpack(name, folder), 1.0) for path in FIXTURES}
    return known | {
        "no device at all": lambda folder: SysfsTelemetry(folder / "nowhere", 1.0),
        "bent files": bent,
        "torn files": torn,
        "the demo's twin": twin,
        "the demo's twin on mains": lambda folder: twin(folder, battery_j=None),
        "the calibration's bench": Bench,
        "the soak's month": lambda _: Month(),
        "the watch's": lambda _: Simulated(),
        "the governor's": lambda _: test_governor_stops.Chip(),
        "the crash world's": lambda _: Thermometer(),
    }


FIXTURES = sorted(DEVICES.glob("*.txt"))
NAMED = devices()


@pytest.fixture(params=NAMED)
def source(request, tmp_path):
    return NAMED[request.param](tmp_path)


def test_it_comes_back_each_time_with_every_figure_and_what_is_known_is_plausible(source):
    for _ in range(2):
        telemetry = source.read()
        assert isinstance(telemetry, Telemetry)
        for each in fields(Telemetry):
            plausible(each.name, getattr(telemetry, each.name))


def plausible(name, reading):
    assert isinstance(reading, Reading)
    assert reading.quality in Quality
    assert reading.age_s >= 0
    if not reading.is_known(60.0):
        return
    if name in SHARES:
        assert 0 <= reading.value <= 1
    elif name in FLAGS:
        assert reading.value in {0, 1}
    elif name in DEGREES:
        assert -50 < reading.value < 150
    else:
        assert reading.value >= 0


def test_a_decision_can_be_made_of_it_whatever_it_says(source):
    noon = datetime.datetime(2026, 1, 5, 12, tzinfo=datetime.UTC)
    situation = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=99, local=noon)
    assert decide(source.read(), Limits(), situation, None).sentence


def test_what_a_device_does_not_have_is_no_figure(tmp_path):
    telemetry = SysfsTelemetry(tmp_path, 1.0).read()
    for name in ("soc_temp_c", "charge", "trip_c", "battery_temp_c", "power_w", "free_memory_mib"):
        assert not getattr(telemetry, name).is_known(60.0)


@pytest.mark.parametrize("battery_j", [None, 20_000.0])
def test_the_simulation_is_read_as_what_it_is(tmp_path, battery_j):
    telemetry = twin(tmp_path, battery_j=battery_j).read()
    assert telemetry.soc_temp_c.value == pytest.approx(47.5)
    assert telemetry.trip_c.value == 85.0
    if battery_j is not None:
        assert telemetry.charge.value == pytest.approx(0.4, abs=0.011)
        assert telemetry.plugged.value == 0


def test_a_source_that_hangs_is_left_at_the_deadline(tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    os.mkfifo(zone / "temp")  # whoever opens it waits for a writer
    telemetry = SysfsTelemetry(tmp_path, 0.2).read()
    assert not telemetry.soc_temp_c.is_known(60.0)
    with open(os.open(zone / "temp", os.O_RDWR | os.O_NONBLOCK), "wb"):  # let it go
        pass
