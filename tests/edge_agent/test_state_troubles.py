"""A device in trouble: its database damaged, its releases broken, its clock wild, its files another user's.

Each is said in one sentence, and what was served goes on being served.
"""

import contextlib
import datetime
import json
import logging
import os
import shutil
import tempfile
from ipaddress import ip_address
from pathlib import Path
from random import Random

import crash_checks
import crash_life
import crash_world
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from device_in_trouble import at_work, is_root, publish
from small_world import Mirror
from stand_in_release import good_adapter

from edge_agent import app
from edge_agent.budget import Cost
from edge_agent.drivers.fog_http import FogHttp, device_key
from edge_agent.drivers.sqlite_diary import DAYS_KEPT, SqliteDiary
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_store import Database
from edge_agent.slots import MAX_STARTS, SHARED
from learning_core.errors import LinkDown, StateError, Tampered
from learning_core.params import scale
from protos.release import MANIFEST, SIGNATURE
from protos.state_folder import StateFolder

NOBODY = 65534


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory)


@pytest.fixture
def device(tmp_path, published, monkeypatch):
    with at_work(tmp_path / "world", published, monkeypatch) as device:
        yield device


def test_a_damaged_database_loses_samples_and_nothing_that_counts(device, caplog):
    crash_life.set_pause(device.agent, device.world, True)
    sent = device.world.told("sent 1")[0]
    device.agent.close()
    path = device.world.state / "agent.db"
    path.write_bytes(path.read_bytes()[:7000])
    device.agent = None
    device.start()
    assert device.serves() == 1
    status = device.agent.status()
    assert status["paused"] is True
    assert status["privacy"]["rounds"] == 1
    assert status["fog"] == {"trouble": ""} or "node_id" in status["fog"]
    assert status["samples"]["in_memory"] == 0
    device.agent._operations()["resume"]({})
    device.drop("b")
    request_again(device, 1)
    assert device.world.told("sent 1") == [sent]
    assert "was damaged" in caplog.text
    assert (device.world.state / "agent.db.damaged").exists()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_bits_turned_in_its_database_the_agent_starts_serves_answers_and_goes_on(device, seed):
    device.agent.close()
    device.agent = None
    dice, path = Random(seed), device.world.state / "agent.db"
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice((4, 64))):
        data[dice.randrange(100, len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    device.start()
    assert device.serves() == 1
    assert crash_checks.spent_at(device.agent, 1.0) >= 1
    device.drop("b")
    asked = device.agent._operations()
    for name in ("decisions", "samples", "incidents"):
        asked[name]({"count": 9})
    device.agent._write_status()


def request_again(device, round_):
    """The fog asks for an answered round once more."""
    with pytest.raises(AssertionError, match="answered"):
        device.answer(round_)


def test_a_second_agent_on_one_state_is_refused(device):
    with pytest.raises(StateError, match="is in use by another process; stop that one first"):
        app.Agent(crash_world.settings_of(device.world))
    assert device.serves() == 1


def test_an_agent_that_enrolls_or_stops_in_order_has_not_failed_with_what_is_on_trial(device):
    device.agent._upgrade.adopt(device.agent._serving.served.release, scale(good_adapter(), 0.9))
    for _ in range(MAX_STARTS + 1):
        device.start()
        device.agent.enroll()
    assert [trial.kind for trial in device.agent._upgrade.trials()] == [SHARED]


def releases(device):
    return device.world.state / "releases"


@pytest.mark.parametrize("lost", ["student.onnx", "judge.onnx", "golden.safetensors", MANIFEST, SIGNATURE])
def test_of_half_a_release_nothing_is_served_and_the_one_before_it_takes_over(device, lost):
    device.install(3)
    assert device.serves() == 3
    (releases(device) / "3" / lost).unlink()
    device.agent.close()
    device.agent = None
    starts = 0
    while device.agent is None and starts < 3:  # as a service manager would
        starts += 1
        with contextlib.suppress(Tampered):
            device.start()
    assert device.serves() == 1
    device.install(3)
    assert device.serves() == 3


def test_a_device_whose_releases_are_all_gone_starts_and_fetches_one_anew(device):
    device.agent.close()
    device.agent = None
    shutil.rmtree(releases(device))
    device.start()
    assert device.agent.status()["release"] is None
    device.install(1)
    assert device.serves() == 1


def test_a_clock_that_jumps_neither_lifts_a_cap_nor_bans_for_years(tmp_path):
    database = Database(tmp_path / "agent.db")
    diary, journal = SqliteDiary(database, 30.0), SqliteJournal(database)
    today = datetime.date(2026, 6, 1)
    for back in range(DAYS_KEPT + 5):
        diary.charge(today - datetime.timedelta(days=back), Cost(bytes=10))
    for day in (datetime.date(1970, 1, 1), datetime.date(2099, 1, 1), today, datetime.date(1970, 1, 1)):
        diary.charge(day, Cost(bytes=100))
        assert diary.spent(day).bytes >= 100
    assert diary.spent(today).bytes == 110
    assert len(database.rows("SELECT day FROM days")) <= DAYS_KEPT + 1
    year_s = 365 * 86400.0
    journal.ban("a" * 64, "spoiled", 50 * year_s + 600)  # by a clock that ran ahead
    assert journal.ban_on("a" * 64, 50 * year_s) is not None
    assert journal.ban_on("a" * 64, 40 * year_s) is None
    journal.ban("b" * 64, "unsound", None)
    assert journal.ban_on("b" * 64, 0.0) == "unsound"
    database.close()


def test_decisions_are_told_in_the_order_they_were_made_whatever_the_clock_said(device):
    asked = device.agent._operations()
    for name in ("pause", "resume", "pause"):
        asked[name]({})
    told = [each["reason"] for each in asked["decisions"]({"count": 3})[0]["decisions"]]
    assert told[-1] == "paused"
    assert told == [*told[:-1], "paused"]


def certificate_of(folder, first_day, last_day):
    """Self-signed for 127.0.0.1, good from one day to another, counted from now; as files."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fog")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now + datetime.timedelta(first_day)).not_valid_after(
        now + datetime.timedelta(last_day)
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = made.add_extension(names, critical=False).add_extension(x509.BasicConstraints(True, None), critical=True)
    (folder / "crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return folder / "crt", folder / "key"


@pytest.mark.parametrize(("days", "word"), [((-9, -2), "expired"), ((2, 9), "not yet valid")])
def test_a_clock_outside_the_certificates_time_makes_the_fog_unreachable_and_says_so(tmp_path, days, word):
    """Seen from the device a clock that is wrong and a certificate that is out of date are the same."""
    (tmp_path / "mirror").mkdir()
    mirror = Mirror(tmp_path / "mirror", certificate_of(tmp_path, *days))
    http = FogHttp(mirror.address, mirror.ca)
    with pytest.raises(LinkDown, match=f"cannot be reached .*certificate (has|is) {word}"):
        http.latest()
    http.close()
    mirror.close()


def acting_for_nobody(deed):
    os.seteuid(NOBODY)
    try:
        return deed()
    finally:
        os.seteuid(0)


@is_root
def test_a_state_folder_or_key_of_another_user_is_said_and_left_alone():
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = Path(open_to_all)
        folder.chmod(0o755)
        (folder / "state").mkdir(mode=0o755)
        device_key(folder / "state" / "device.pem")
        with pytest.raises(StateError, match="cannot be written; make it writable for this user"):
            acting_for_nobody(lambda: StateFolder.open(folder / "state"))
        with pytest.raises(StateError, match=r"cannot be read .*; make it this user's own"):
            acting_for_nobody(lambda: device_key(folder / "state" / "device.pem"))
        Database(folder / "state" / "agent.db").close()
        with pytest.raises(StateError, match="make its folder writable"):
            acting_for_nobody(lambda: Database(folder / "state" / "agent.db"))
        assert sorted(path.name for path in (folder / "state").iterdir()) == ["agent.db", "agent.vital", "device.pem"]


def test_nothing_said_here_has_secrets_in_it(device, caplog):
    caplog.set_level(logging.DEBUG)
    device.drop("b")
    device.answer(2)
    key = (device.world.state / "device.pem").read_text().splitlines()[1]
    assert key not in caplog.text
    assert key not in json.dumps(device.agent.status())
    assert "good" not in json.dumps(device.agent.status()["fog"])
