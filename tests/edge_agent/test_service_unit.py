"""The systemd unit: it fits the agent's own figures, and leaves it what it needs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.app import STOP_WITHIN_S
from edge_agent.config import AgentSettings, Learning, TelemetrySettings
from learning_core.errors import ConfigError, StateError
from protos.settings import load

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "dewfall-edge.service"


@pytest.fixture(scope="module")
def unit():
    """Each directive with all its values, in order."""
    found = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_it(tmp_path):
    text = UNIT.read_text().replace("/opt/dewfall/bin/dewfall edge run", "/bin/true edge run")  # that one is installed
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_watchdog_waits_for_more_than_two_of_the_slowest_looks(unit):
    slowest_s = next(each.le for each in TelemetrySettings.model_fields["interval_s"].metadata if hasattr(each, "le"))
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) > 2 * slowest_s


def test_it_leaves_the_agent_the_time_it_takes_to_stop_and_does_not_retry_wrong_settings(unit):
    assert float(unit["TimeoutStopSec"][0]) > 2 * STOP_WITHIN_S
    assert unit["RestartPreventExitStatus"] == [str(ConfigError.exit_code)]
    assert str(StateError.exit_code) not in unit["RestartPreventExitStatus"]


def test_what_telemetry_and_the_learner_need_is_not_forbidden(unit):
    assert not {"MemoryDenyWriteExecute", "ProcSubset", "PrivateDevices"} & set(unit)
    assert not any(value.startswith("~") and "@resources" in value for value in unit["SystemCallFilter"])
    assert unit["DeviceAllow"] == ["/dev/vcio rw"]
    assert unit["Delegate"] == ["cpu memory"]
    assert "ProtectControlGroups" not in unit
    assert Learning().max_memory_mib < int(unit["MemoryMax"][0].removesuffix("M"))
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(unit["RestrictAddressFamilies"][0].split())


def test_the_document_installs_what_the_unit_starts_and_its_settings_are_right(unit, tmp_path):
    text = (UNIT.parents[2] / "docs" / "devices.md").read_text()
    program, *words, config = unit["ExecStart"][0].split()
    assert words == ["edge", "run", "--config"]
    assert f"venv {Path(program).parents[1]} " in text
    assert f"edge.toml {Path(config).parent}\n" in text
    settings = tmp_path / "edge.toml"
    settings.write_text(text.partition("```toml\n")[2].partition("```")[0].replace("…64 hex digits…", "ab" * 32))
    assert load(AgentSettings, settings).state == Path("/var/lib") / unit["StateDirectory"][0]


def test_no_library_calls_home(unit):
    said = " ".join(unit["Environment"]).split()
    assert {"FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1", "ORT_DISABLE_TELEMETRY=1"} <= set(said)


def test_everything_else_is_closed(unit):
    for directive in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "ProtectKernelTunables", "RestrictRealtime"):
        assert unit[directive] == ["yes"], directive
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["StateDirectory"] == ["dewfall/edge"]
