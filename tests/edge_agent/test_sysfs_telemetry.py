import contextlib
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.sysfs import Snapshot, parse_millidegrees, parse_share, power, soc_temperature, throttled
from edge_agent.values import Quality

THERMAL, SUPPLY = "sys/class/thermal", "sys/class/power_supply"
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


def snapshot(quality=Quality.OK, age_s=0.0, folder="zone", **texts):
    return Snapshot(folder, texts, quality, age_s)


def test_a_silent_zone_makes_the_whole_temperature_as_old_as_it_is():
    zones = [snapshot(type="cpu", temp="50000"), snapshot(Quality.STALE, 9.0, type="gpu", temp="40000")]
    reading = soc_temperature(zones)
    assert (reading.value, reading.quality, reading.age_s) == (50.0, Quality.STALE, 9.0)


def test_a_denied_zone_says_so():
    assert soc_temperature([snapshot(Quality.DENIED, type="cpu")]).quality is Quality.DENIED


@pytest.mark.parametrize(
    ("supplies", "plugged"),
    [
        ([snapshot(type="Battery", status="Discharging", capacity="50")], 0.0),
        ([snapshot(type="Battery", status="Charging", capacity="50")], 1.0),
        ([snapshot(type="Battery", status="Full", capacity="100")], 1.0),
        ([snapshot(type="Battery", status="Unknown", capacity="50")], 0.0),
        ([snapshot(type="Battery", status="Unknown", capacity="50"), snapshot(type="USB", online="1")], 1.0),
        ([snapshot(type="UPS", status="Discharging", capacity="50")], 0.0),
        ([snapshot(type="Mains", online="0")], 1.0),  # a socket and no battery
    ],
)
def test_who_feeds_the_device(supplies, plugged):
    assert power(supplies)[1].value == plugged


def test_two_batteries_share_the_load():
    batteries = [snapshot(type="Battery", status="Discharging", capacity=text) for text in ("20", "60")]
    charge, plugged = power(batteries)
    assert (charge.value, plugged.value) == (pytest.approx(0.4), 0.0)


def test_supplies_that_may_not_be_read_leave_charge_and_plug_unknown():
    charge, plugged = power([snapshot(Quality.DENIED)])
    assert charge.quality is plugged.quality is Quality.DENIED


def test_a_battery_with_an_impossible_charge_is_implausible():
    assert power([snapshot(type="Battery", status="Discharging", capacity="140")])[0].quality is Quality.IMPLAUSIBLE


def test_a_cooler_whose_state_is_no_number_is_implausible():
    assert throttled([snapshot(type="Processor", cur_state="?")]).quality is Quality.IMPLAUSIBLE


@pytest.mark.parametrize("text", ["", "hot", "0", "-256000", "151000", "nan", "48.6"])
def test_no_chip_has_this_temperature(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_millidegrees(text)


@given(st.text(max_size=8))
def test_a_share_is_a_share_or_refused(text):
    with contextlib.suppress(ValueError):
        assert 0 <= parse_share(text) <= 1
