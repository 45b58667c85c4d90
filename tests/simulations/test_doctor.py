"""`dewfall doctor --config`: what it finds on a device, and that only what prevents the role fails it."""

import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from edge_agent.config import AgentSettings, Fog
from protos.certificates import CertificateFiles, ensure_certificate
from protos.settings import load
from simulations import doctor_device
from simulations.doctor import examine
from simulations.doctor_device import clock, disk, findings, reach, secrets, state, versions

KEY = "ab" * 32


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A fog's certificate files; `ca` signs it, and `other` is somebody else's."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("fog", "other"):
        (folder / name).mkdir()
        files = CertificateFiles(*(folder / name / each for each in ("ca.crt", "ca.key", "leaf.crt", "leaf.key")))
        ensure_certificate(files, name, ("localhost", "127.0.0.1"), time.time())
    return SimpleNamespace(ca=folder / "fog/ca.crt", other=folder / "other/ca.crt", leaf=folder / "fog")


@contextmanager
def fog(certificate, answers=True, date=None):
    """One connection to something that speaks TLS as a fog does, or listens and keeps silent; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.leaf / "leaf.crt", certificate.leaf / "leaf.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        try:
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as caller:
                caller.recv(4096)
                caller.sendall(f"HTTP/1.1 404 x\r\ndate: {formatdate(date)}\r\ncontent-length: 0\r\n\r\n".encode())
        except OSError:
            return

    thread = threading.Thread(target=serve)
    if answers:
        thread.start()
    with listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    if answers:
        thread.join(5)


def asked(address, ca):
    return reach(Fog(address=address, ca=ca, release_key=KEY), time.time())


@pytest.fixture
def device(tmp_path, certificate):
    """A settings file of a device that lacks nothing but a fog."""
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("45000\n")
    settings = tmp_path / "edge.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = taken.getsockname()[1]

    def write(token='token = "good"'):
        settings.write_text(
            f'name = "d"\nstate = "{tmp_path / "state"}"\n[fog]\naddress = "127.0.0.1:{nowhere}"\n'
            f'ca = "{certificate.ca}"\nrelease_key = "{KEY}"\n{token}\n[telemetry]\nroot = "{tmp_path / "root"}"\n'
        )
        settings.chmod(0o640)
        return load(AgentSettings, settings)

    write()
    return SimpleNamespace(settings=settings, write=write, state=tmp_path / "state")


def test_a_device_whose_fog_is_away_can_run_and_its_readings_are_shown(device, capsys):
    assert examine(device.settings) == 0
    told = capsys.readouterr().out
    assert "soc_temp_c" in told
    assert "decision:" in told


def test_a_device_without_a_token_or_a_key_fails(device, capsys):
    device.write(token="")
    assert examine(device.settings) == 1
    assert "not enrolled" in " ".join(capsys.readouterr().out.split())


def test_the_agents_packages_are_what_prevents_it(device, monkeypatch, capsys):
    monkeypatch.setattr("simulations.doctor.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(doctor_device, "find_spec", lambda name: None)
    assert examine(device.settings) == 1
    assert "dewfall[edge]" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_made_by_looking(device):
    before = sorted(device.settings.parent.rglob("*"))
    assert not any(each.prevents for each in findings(device.write(), device.settings, time.time()))
    assert sorted(device.settings.parent.rglob("*")) == before


def test_a_fog_that_answers_with_the_expected_certificate_fits(certificate):
    with fog(certificate) as address:
        found = asked(address, certificate.ca)
    assert (found.prevents, found.means) == (False, "answers, and its certificate is the expected one")


def test_a_fog_with_another_certificate_prevents(certificate):
    with fog(certificate) as address:
        found = asked(address, certificate.other)
    assert found.prevents
    assert "not to be trusted" in found.means


def test_a_file_that_is_no_certificate_prevents(tmp_path):
    (tmp_path / "fog.crt").write_text("no")
    for name in ("fog.crt", "nothing"):
        assert asked("127.0.0.1:1", tmp_path / name).prevents


def test_a_fog_that_says_nothing_is_left_after_the_deadline(certificate, monkeypatch):
    monkeypatch.setattr(doctor_device, "REACH_WITHIN_S", 0.2)
    began = time.monotonic()
    with fog(certificate, answers=False) as address:
        found = asked(address, certificate.ca)
    assert time.monotonic() - began < 2
    assert not found.prevents
    assert "cannot be reached now" in found.means


def test_a_clock_that_is_ten_minutes_from_the_fogs_prevents(certificate):
    with fog(certificate, date=time.time() + 600) as address:
        found = asked(address, certificate.ca)
    assert found.prevents
    assert "differ by" in found.means


def test_a_clock_behind_a_file_written_here_is_wrong(tmp_path):
    (tmp_path / "agent.db").write_text("")
    now_s = time.time()
    assert not clock(now_s, (tmp_path / "agent.db", tmp_path / "none")).prevents
    started_in_the_past = clock(0.0, (tmp_path / "agent.db",))
    assert started_in_the_past.prevents
    assert "agent.db" in started_in_the_past.means
    assert not clock(0.0, ()).prevents


def test_a_key_others_can_read_is_said_and_does_not_prevent(device):
    device.state.mkdir()
    key = device.state / "device.pem"
    key.write_text("key")
    key.chmod(0o644)
    found = {each.what: each for each in secrets(device.write(), device.settings)}
    assert f"chmod 600 {key}" in found["key"].means
    assert not found["key"].prevents
    key.chmod(0o600)
    device.settings.chmod(0o644)
    found = {each.what: each for each in secrets(load(AgentSettings, device.settings), device.settings)}
    assert found["key"].means == "only its owner reads it"
    assert "chmod 640" in found["token"].means


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_state_folder_of_somebody_else_prevents(tmp_path):
    (tmp_path / "state").mkdir(mode=0o500)
    assert state(tmp_path / "state").prevents


def test_a_file_in_the_place_of_the_state_folder_prevents(tmp_path):
    (tmp_path / "state").write_text("")
    assert state(tmp_path / "state" / "edge").prevents
    assert not state(tmp_path / "a" / "b").prevents


@pytest.mark.parametrize(
    ("free_mib", "prevents", "word"), [(15, True, "full"), (100, False, "little"), (999, False, "fits")]
)
def test_a_full_disk_prevents_and_a_nearly_full_one_is_said(tmp_path, monkeypatch, free_mib, prevents, word):
    monkeypatch.setattr(doctor_device.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_mib << 20))
    found = disk(tmp_path / "not/yet")
    assert (found.prevents, word in found.means) == (prevents, True)


def test_versions_are_compared_with_what_the_extra_asks_for(monkeypatch):
    assert versions().means == "fits"
    monkeypatch.setattr(doctor_device.importlib.metadata, "requires", lambda _: ['flwr<1; extra == "edge"', "gone>1"])
    assert "flwr" in versions().found
    assert "constraints.txt" in versions().means
