"""What the agent believes of each device in `devices`, and with which quality."""

import json

import pytest
from typer.testing import CliRunner

from edge_agent.__main__ import cli
from edge_agent.drivers.sysfs_telemetry import SysfsTelemetry
from edge_agent.values import Quality

ABSENT = Quality.ABSENT

FIGURES = (
    *("soc_temp_c", "trip_c", "throttled", "under_voltage", "charge", "plugged", "battery_temp_c", "power_w"),
    *("cpu_pressure", "memory_pressure", "free_memory_mib", "metered"),
)
BELIEFS = {
    "jetson_orin_nano": (52.906, 95.0, 0, ABSENT, ABSENT, 1, ABSENT, 6.26, 0.025, 0.0012, 5120, ABSENT),
    "jetson_xavier_agx": (87.5, 86.0, 1, ABSENT, ABSENT, 1, ABSENT, 6.0, 0.75, ABSENT, 25600, ABSENT),
    "raspberry_pi_4": (48.686, 110.0, 1, 1, ABSENT, 1, ABSENT, ABSENT, 0.2, ABSENT, 3072, ABSENT),
    "raspberry_pi_5": (56.75, 110.0, 0, 0, ABSENT, 1, ABSENT, ABSENT, 0.003, 0.0, 7168, ABSENT),
    "phone_termux": (ABSENT, ABSENT, ABSENT, ABSENT, 0.68, 0, 31.2, 1.248, ABSENT, ABSENT, 2048, ABSENT),
    "phone_linux": (44.3, 90.0, 0, ABSENT, 0.24, 0, 28.7, 0.95, 0.11, 0.01, 3584, 1),
    "laptop_at_charge_limit": (61.0, 100.0, 0, ABSENT, 0.8, 1, ABSENT, ABSENT, 0.0, 0.0, 9216, 0),
    "laptop_two_batteries": (47.0, ABSENT, 0, ABSENT, 0.4, 0, ABSENT, 9.5, 0.25, ABSENT, 4096, ABSENT),
    "virtual_machine": (ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 1, ABSENT, ABSENT, 0.41, 0.0, 3072, ABSENT),
}
DECISIONS = {
    "jetson_orin_nano": "ready",
    "jetson_xavier_agx": "heat",
    "raspberry_pi_4": "under_voltage",
    "raspberry_pi_5": "ready",
    "phone_termux": "heat_unknown",
    "phone_linux": "charge",
    "laptop_at_charge_limit": "ready",
    "laptop_two_batteries": "ready",
    "virtual_machine": "heat_unknown",
}


@pytest.mark.parametrize("name", BELIEFS)
def test_the_agent_believes_of_a_device_what_its_files_say(name, tmp_path, devices):
    telemetry = SysfsTelemetry(devices.unpack(name, tmp_path), deadline_s=5.0).read()
    for figure, expected in zip(FIGURES, BELIEFS[name], strict=True):
        reading = getattr(telemetry, figure)
        if isinstance(expected, Quality):
            assert (figure, reading.quality) == (figure, expected)
        else:
            assert (figure, reading.quality) == (figure, Quality.OK)
            assert (figure, reading.value) == (figure, pytest.approx(expected))


@pytest.mark.parametrize("name", DECISIONS)
def test_a_person_sees_what_would_be_decided_on_a_device_without_an_agent(name, tmp_path, devices):
    told = CliRunner().invoke(cli, ["status", "--root", str(devices.unpack(name, tmp_path)), "--json"])
    assert (told.exit_code, json.loads(told.output)["decision"]["reason"]) == (0, DECISIONS[name])


def test_a_person_reads_value_quality_and_source_of_each_belief(tmp_path, devices):
    told = CliRunner().invoke(cli, ["status", "--root", str(devices.unpack("jetson_orin_nano", tmp_path))]).output
    lines = {line.split()[0]: line for line in told.splitlines() if line}
    assert "52.91 °C" in lines["soc_temp_c"]
    assert "thermal_zone8/temp" in lines["soc_temp_c"]
    assert "module power (VDD_IN)" in lines["power_w"]
    assert "absent" in lines["under_voltage"]
    assert lines["decision:"].startswith("decision: train (ready)")


def test_a_root_that_is_no_folder_is_refused_in_a_sentence(tmp_path):
    told = CliRunner().invoke(cli, ["status", "--root", str(tmp_path / "nowhere")])
    assert "there is no folder" in str(told.exception)


def test_the_sources_of_a_phone_say_where_its_battery_was_asked(tmp_path, devices):
    telemetry = SysfsTelemetry(devices.unpack("phone_termux", tmp_path), deadline_s=5.0).read()
    assert telemetry.charge.source.endswith("bin/termux-battery-status/output")


def test_a_load_that_stands_in_for_pressure_says_so(tmp_path, devices):
    telemetry = SysfsTelemetry(devices.unpack("raspberry_pi_4", tmp_path), deadline_s=5.0).read()
    assert telemetry.cpu_pressure.source.endswith("loadavg per core")
