"""`dewfall edge calibrate-thermal`: on a simulated device in virtual time, and as a command that refuses and stops."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from edge_agent.calibration import (
    FACT,
    KEPT_CLEAR_C,
    Calibration,
    CalibrationStopped,
    Plan,
    calibration_of,
    measure,
    record_in_words,
    record_of,
    refusal_of,
)
from edge_agent.config import Limits
from edge_agent.drivers.sqlite_store import Database
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.drivers.thermal_bench import BusyCore
from edge_agent.thermal_fit import NoFit, ThermalFit, fit
from edge_agent.values import Quality, Reading
from protos.state_folder import StateFolder
from simulations.physics import Board, DeviceState, step, sysfs_files

LIMITS = Limits(max_soc_temp_c=80, resume_soc_temp_c=75)
PLAN = Plan(60, 150, 120)  # short, and enough for the body of this board


@dataclass
class Bench:
    """A simulated board below a folder, whose seconds pass when somebody sleeps. Saves nothing."""

    root: object
    board: Board = field(default_factory=lambda: Board(battery_j=None))
    rng: object = field(default_factory=lambda: np.random.default_rng(3))
    now_s: float = 0.0
    is_busy: bool = False
    told: list = field(default_factory=list)
    more: dict = field(default_factory=dict)
    change: object = None
    blind_from_s: float = float("inf")

    def __post_init__(self):
        self.state = DeviceState(33.0, 31.0)
        self.used_s = 0.0
        self.telemetry = SysfsTelemetry(self.root, deadline_s=5.0)
        self.show()

    def start(self):
        self.is_busy = True

    def stop(self):
        self.is_busy = False

    def busy_s(self):
        used_s, self.used_s = self.used_s, 0.0
        return used_s

    def clock(self):
        return self.now_s

    def sleep(self, seconds):
        for _ in range(20):
            self.state = step(self.state, self.board, 0.97 * self.is_busy, seconds / 20)
        self.used_s += 0.97 * self.is_busy * seconds
        self.now_s += seconds
        if self.change:
            self.change(self)
        self.show()

    def show(self):
        noisy = replace(self.state, die_c=self.state.die_c + self.rng.normal(0, 0.3))
        for path, text in {**sysfs_files(noisy, self.board), **self.more}.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)

    def measure(self, plan=PLAN, limits=LIMITS):
        return measure(plan, limits, self.read, self, self.clock, self.sleep, self.told.append)

    def read(self):
        telemetry = self.telemetry.read()
        silent = Reading(0.0, "°C", 9.0, Quality.DENIED, "zone")
        return replace(telemetry, soc_temp_c=silent) if self.now_s >= self.blind_from_s else telemetry


def test_a_simulated_device_is_calibrated_through_its_files_and_the_record_outlives_the_process(tmp_path):
    bench = Bench(tmp_path)
    measured = bench.measure()
    assert not bench.is_busy
    assert len(measured.samples) == 330
    assert measured.cut is None
    assert measured.watts_per_core is None  # nothing measures it on this device
    found = fit(measured.samples)
    assert isinstance(found, ThermalFit)
    board = bench.board
    steady_k = board.learning_w * (board.die_to_body + board.body_to_air)
    assert found.model.die_k + found.model.body_k == pytest.approx(steady_k, rel=0.1)
    record = record_of(measured, found, {"at_s": 1.0})
    with closing(Database(tmp_path / "agent.db")) as database:
        database.set_fact(FACT, record)
        assert calibration_of(database.fact(FACT)) == Calibration(found.model, None)
    assert record["provenance"]["sources"] == [str(tmp_path / "sys/class/thermal/thermal_zone0/temp")]
    assert "residuals: 0.3" in record_in_words(record)
    assert bench.told[0] == "idle 1 of 60 s, " + bench.told[0].rpartition(", ")[2]


def test_where_rails_are_measured_a_busy_core_gets_its_watts_and_the_network_its_resistances(tmp_path):
    rail = "sys/class/hwmon/hwmon0"

    def rails(bench):
        watts = bench.board.idle_w + 0.97 * bench.is_busy * bench.board.learning_w
        bench.more = {
            f"{rail}/name": "ina3221\n",
            f"{rail}/in1_label": "VDD_IN\n",
            f"{rail}/in1_input": "5000\n",
            f"{rail}/curr1_input": f"{round(watts / 5 * 1000)}\n",
        }

    bench = Bench(tmp_path, change=rails)
    measured = bench.measure(Plan(8, 16, 1))
    assert measured.watts_per_core == pytest.approx(0.97 * bench.board.learning_w, rel=0.01)


def test_the_load_ends_at_once_at_the_limit_and_the_run_goes_on_cooling(tmp_path):
    bench = Bench(tmp_path)
    low = Limits(max_soc_temp_c=60, resume_soc_temp_c=55)
    hottest = []
    bench.change = lambda bench: hottest.append(bench.state.die_c)
    measured = bench.measure(Plan(2, 150, 3), low)
    assert max(hottest) < 60 - KEPT_CLEAR_C + 1.5
    assert "57 °C is as far as a calibration goes" in measured.cut
    assert measured.samples[-1].load == 0.0
    assert bench.now_s < 100


def test_a_chip_that_is_slowed_down_ends_the_load(tmp_path):
    def slow(bench):
        cooler = "sys/class/thermal/cooling_device0"
        bench.more = {f"{cooler}/type": "cpufreq-cpu0\n", f"{cooler}/cur_state": f"{int(bench.now_s > 15)}\n"}

    measured = Bench(tmp_path, change=slow).measure(Plan(10, 60, 5))
    assert "slowing the processor down" in measured.cut


def test_a_thermometer_that_falls_silent_ends_everything(tmp_path):
    bench = Bench(tmp_path, blind_from_s=12.0)
    with pytest.raises(CalibrationStopped, match="cannot be read"):
        bench.measure(Plan(10, 60, 5))
    assert not bench.is_busy


def test_a_refusal_names_what_cut_the_run_short(tmp_path):
    measured = replace(Bench(tmp_path).measure(Plan(2, 2, 2)), cut="the load ended after 2 s: hot")
    text = str(refusal_of(NoFit("too few"), measured))
    assert text == "nothing was stored: too few (the load ended after 2 s: hot)"


@pytest.mark.parametrize(
    "record", [None, [], {}, {"model": 3}, {"model": None, "watts_per_core": "4"}, {"watts_per_core": -1.0}]
)
def test_a_damaged_record_is_no_calibration(record):
    assert calibration_of(record) == Calibration()


def test_the_busy_child_takes_a_core_at_the_lowest_priority_and_ends():
    core = BusyCore(512, nice=False)
    core.start()
    try:
        pid = core._child.pid
        core.busy_s()
        until, used_s = time.monotonic() + 60, 0.0
        while used_s < 0.2:
            assert time.monotonic() < until
            time.sleep(0.1)
            used_s += core.busy_s()
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, pid) == 19
    finally:
        core.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    core.stop()


@pytest.fixture
def settings(tmp_path, certificate):
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("45000\n")
    file = tmp_path / "device.toml"
    file.write_text(
        f"""
        name = "device-1"
        state = "{tmp_path / "state"}"
        [fog]
        address = "127.0.0.1:1"
        ca = "{certificate[0]}"
        release_key = "{"ab" * 32}"
        [telemetry]
        root = "{tmp_path / "root"}"
        """
    )
    return file


def command(*arguments):
    return [sys.executable, "-m", "edge_agent", "calibrate-thermal", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)


def test_the_command_refuses_a_device_that_does_not_get_warm_and_stores_nothing(settings, tmp_path):
    done = run("--config", settings, "--idle-s", 1, "--load-s", 2, "--cool-s", 1)
    assert done.returncode == 1
    assert "nothing was stored: 4 readings of the temperature are too few" in done.stderr
    assert "idle 1 of 1 s, 45.0 °C" in done.stderr
    with closing(Database(tmp_path / "state/agent.db")) as database:
        assert database.fact(FACT) is None


def test_the_command_leaves_a_running_agents_state_alone(settings, tmp_path):
    with StateFolder.open(tmp_path / "state"):
        done = run("--config", settings)
    assert "is in use by another process" in done.stderr
    assert done.returncode == 1


def test_ctrl_c_ends_the_command_and_its_load(settings):
    stages = ("--idle-s", 1, "--load-s", 600)
    child = subprocess.Popen(command("--config", settings, *stages), stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not (busy := _children(child.pid)):
            assert time.monotonic() < until
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
        assert (child.returncode, said.splitlines()[-1]) == (130, "stopped; nothing was stored")
        for pid in busy:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    finally:
        child.kill()
        child.wait()


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return [int(each) for each in children.read().split()]
