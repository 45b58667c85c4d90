import os
import threading
import time

import pytest

from edge_agent.drivers import sysfs_telemetry
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.values import Quality

THERMAL, SUPPLY = "sys/class/thermal", "sys/class/power_supply"
PROCESSOR = "sys/devices/system/cpu/cpu0"
RASPBERRY_PI = {
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "48686\n",
    f"{THERMAL}/thermal_zone0/trip_point_0_type": "critical\n",
    f"{THERMAL}/thermal_zone0/trip_point_0_temp": "110000\n",
    f"{THERMAL}/cooling_device0/type": "pwm-fan\n",
    f"{THERMAL}/cooling_device0/cur_state": "2\n",
}
JETSON_ORIN = {
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "51250\n",
    f"{THERMAL}/thermal_zone1/type": "gpu-thermal\n",
    f"{THERMAL}/thermal_zone1/temp": "-256000\n",  # the GPU's rail is off
    f"{THERMAL}/thermal_zone8/type": "tj-thermal\n",
    f"{THERMAL}/thermal_zone8/temp": "52906\n",
    f"{THERMAL}/thermal_zone9/type": "PMIC-Die\n",
    f"{THERMAL}/thermal_zone9/temp": "100000\n",
    f"{THERMAL}/cooling_device3/type": "cpufreq-cpu0\n",
    f"{THERMAL}/cooling_device3/cur_state": "0\n",
}
LAPTOP_HELD_AT_80 = {
    f"{THERMAL}/thermal_zone0/type": "x86_pkg_temp\n",
    f"{THERMAL}/thermal_zone0/temp": "61000\n",
    f"{SUPPLY}/AC/type": "Mains\n",
    f"{SUPPLY}/AC/online": "0\n",
    f"{SUPPLY}/BAT0/type": "Battery\n",
    f"{SUPPLY}/BAT0/status": "Not charging\n",
    f"{SUPPLY}/BAT0/capacity": "80\n",
    f"{SUPPLY}/BAT0/current_now": "-1200000\n",
    f"{SUPPLY}/hidpp_battery_0/type": "Battery\n",
    f"{SUPPLY}/hidpp_battery_0/scope": "Device\n",
    f"{SUPPLY}/hidpp_battery_0/status": "Discharging\n",
    f"{SUPPLY}/hidpp_battery_0/capacity": "5\n",
}


def telemetry_of(root, files, deadline_s=2.0):
    write(root, files)
    return SysfsTelemetry(root, deadline_s).read()


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_a_raspberry_pi_is_read_in_degrees_and_a_fan_is_no_throttle(tmp_path):
    telemetry = telemetry_of(tmp_path, RASPBERRY_PI)
    assert (telemetry.soc_temp_c.value, telemetry.soc_temp_c.quality) == (48.686, Quality.OK)
    assert telemetry.throttled.quality is Quality.ABSENT


def test_a_device_without_any_battery_is_fed_by_mains(tmp_path):
    telemetry = telemetry_of(tmp_path, RASPBERRY_PI)
    assert telemetry.charge.quality is Quality.ABSENT
    assert (telemetry.plugged.value, telemetry.plugged.quality) == (1.0, Quality.OK)


def test_a_jetson_shows_its_hottest_zone_without_the_rail_that_is_off_and_the_fixed_pmic(tmp_path):
    telemetry = telemetry_of(tmp_path, JETSON_ORIN)
    assert (telemetry.soc_temp_c.value, telemetry.soc_temp_c.quality) == (52.906, Quality.OK)
    assert telemetry.throttled.value == 0.0


def test_a_laptop_held_at_its_limit_counts_as_plugged_and_its_mouse_does_not_count(tmp_path):
    telemetry = telemetry_of(tmp_path, LAPTOP_HELD_AT_80)
    assert telemetry.charge.value == pytest.approx(0.8)
    assert telemetry.plugged.value == 1.0


def test_a_machine_without_thermal_files_has_no_temperature(tmp_path):
    assert telemetry_of(tmp_path, {}).soc_temp_c.quality is Quality.ABSENT


def test_a_throttled_processor_is_seen(tmp_path):
    files = JETSON_ORIN | {f"{THERMAL}/cooling_device3/cur_state": "3\n"}
    assert telemetry_of(tmp_path, files).throttled.value == 1.0


def test_a_zone_that_hangs_costs_the_deadline_once_and_becomes_stale_with_its_last_value(tmp_path):
    write(tmp_path, RASPBERRY_PI)
    source = SysfsTelemetry(tmp_path, deadline_s=1.0)
    assert source.read().soc_temp_c.quality is Quality.OK
    hanging = tmp_path / THERMAL / "thermal_zone0/temp"
    hanging.unlink()
    os.mkfifo(hanging)  # opening it blocks until somebody writes
    before, threads = time.monotonic(), threading.active_count()
    first, second = source.read().soc_temp_c, source.read().soc_temp_c
    assert time.monotonic() - before < 3.0
    assert threading.active_count() <= threads + 1  # who hangs is not asked again
    assert (first.value, first.quality, second.quality) == (48.686, Quality.STALE, Quality.STALE)
    assert second.age_s > first.age_s >= 1.0
    with hanging.open("w") as writer:  # it answers at last
        writer.write("50000")
    deadline = time.monotonic() + 5
    hanging.unlink()
    hanging.write_text("51000")
    while source.read().soc_temp_c.value != 51.0:
        assert time.monotonic() < deadline


def test_a_hanging_zone_that_never_answered_does_not_hide_the_others(tmp_path):
    write(tmp_path, JETSON_ORIN)
    (tmp_path / THERMAL / "thermal_zone2").mkdir()
    os.mkfifo(tmp_path / THERMAL / "thermal_zone2/type")
    reading = SysfsTelemetry(tmp_path, deadline_s=0.5).read().soc_temp_c
    assert (reading.value, reading.quality) == (52.906, Quality.OK)
    with (tmp_path / THERMAL / "thermal_zone2/type").open("w"):
        pass


def test_a_processor_is_throttled_while_its_counters_rise(tmp_path):
    count = f"{PROCESSOR}/thermal_throttle/core_throttle_count"
    write(tmp_path, {count: "7\n"})
    source = SysfsTelemetry(tmp_path, deadline_s=2.0)
    assert source.read().throttled.quality is Quality.ABSENT  # one look cannot tell
    assert source.read().throttled.value == 0.0
    write(tmp_path, {count: "9\n"})
    risen, calm = source.read().throttled, source.read().throttled
    assert (risen.value, calm.value) == (1.0, 0.0)


def test_a_zone_that_goes_away_is_forgotten(tmp_path):
    write(tmp_path, RASPBERRY_PI)
    source = SysfsTelemetry(tmp_path, deadline_s=2.0)
    assert source.read().soc_temp_c.quality is Quality.OK
    (tmp_path / THERMAL / "thermal_zone0").rename(tmp_path / "gone")
    assert source.read().soc_temp_c.quality is Quality.ABSENT


def test_a_drive_is_never_asked_how_warm_it_is(tmp_path):
    write(tmp_path, {"sys/class/hwmon/hwmon0/name": "nvme\n"})
    os.mkfifo(tmp_path / "sys/class/hwmon/hwmon0/temp1_input")  # would block
    before = time.monotonic()
    SysfsTelemetry(tmp_path, deadline_s=5.0).read()
    assert time.monotonic() - before < 4.0


def test_a_program_that_hangs_keeps_its_last_answer_as_stale(tmp_path, devices, monkeypatch):
    monkeypatch.setattr(sysfs_telemetry, "PROGRAM_EVERY_S", dict.fromkeys(sysfs_telemetry.PROGRAM_EVERY_S, 0.0))
    program = tmp_path / "usr/bin/vcgencmd"
    devices.make_program(program, "echo throttled=0x1")
    source = SysfsTelemetry(tmp_path, deadline_s=3.0)
    assert (source.read().under_voltage.value, source.read().under_voltage.quality) == (1.0, Quality.OK)
    monkeypatch.setattr(source, "_deadline_s", 0.3)
    devices.make_program(program, "sleep 4")
    before = time.monotonic()
    reading = source.read().under_voltage
    assert time.monotonic() - before < 2.0
    assert (reading.value, reading.quality) == (1.0, Quality.STALE)


def test_a_program_is_not_started_at_every_look(tmp_path, devices):
    devices.make_program(tmp_path / "usr/bin/vcgencmd", f"echo . >> {tmp_path}/starts; echo throttled=0x0")
    source = SysfsTelemetry(tmp_path, deadline_s=3.0)
    for _ in range(5):
        source.read()
    assert (tmp_path / "starts").read_text() == ".\n"
