import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.drivers.fog_http import EnrolmentRefused, FogHttp, device_key, public_text
from edge_agent.drivers.release_client import ReleaseClient, Unsound
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.serving import Serving
from edge_agent.upgrade import Upgrade
from learning_core.errors import ConfigError, LinkDown, StateError, Tampered


class Device:
    """What a device has of releases; `now_s` is its clock."""

    def __init__(self, folder, mirror, key):
        self.folder = folder / "releases"
        self.now_s = 1000.0
        self.database = Database(folder / "agent.db")
        self.http = FogHttp(mirror.address, mirror.ca)
        self.shelf = ReleaseClient(self.http, self.folder, key, SqliteJournal(self.database), clock=lambda: self.now_s)
        self.serving = Serving()
        self.upgrade = Upgrade(self.shelf, self.serving, SqliteSlots(self.database, clock=lambda: self.now_s))

    def hears_of(self, announced):
        news = self.upgrade.announce(*announced)
        self.upgrade.step()
        return news

    def passes(self):
        self.upgrade.pass_trial(self.upgrade.trials()[0])

    @property
    def version(self):
        return self.serving.served.release.version if self.serving.served else None

    def close(self):
        self.http.close()
        self.database.close()


@pytest.fixture
def start(tmp_path, mirror, stand_in):
    """Start the device; again after it was stopped, on the same folder."""
    running = []

    def start(key=stand_in.PUBLIC_KEY):
        for device in running:
            device.close()
        (tmp_path / "state").mkdir(exist_ok=True)
        running[:] = [Device(tmp_path / "state", mirror, key)]
        return running[0]

    yield start
    for device in running:
        device.close()


def test_an_announced_release_is_fetched_verified_and_served(start, mirror):
    device = start()
    announced = mirror.publish(1)
    assert device.hears_of(announced) == "release 1 is being fetched"
    assert device.version == 1
    assert device.upgrade.announce(*announced) is None
    assert device.serving.answer([3], seed=1).shape == (1, 1, 4, 4)


def test_it_is_served_again_after_a_restart_without_asking_anybody(start, mirror):
    start().hears_of(mirror.publish(1))
    mirror.asked.clear()
    device = start()
    device.upgrade.restore()
    assert device.version == 1
    assert mirror.asked == []


def test_a_newer_release_takes_over_and_an_older_one_never_does(start, mirror):
    device = start()
    first = mirror.publish(1)
    device.hears_of(first)
    device.hears_of(mirror.publish(2))
    assert device.version == 2
    assert device.hears_of(first) is None
    assert device.version == 2


def test_only_two_releases_stay_on_the_disk_what_is_good_and_what_is_on_trial(start, mirror):
    device = start()
    for version in (1, 2, 3):
        device.hears_of(mirror.publish(version))
    assert device.shelf.versions() == [3, 1]
    device.passes()
    device.hears_of(mirror.publish(4))
    assert device.shelf.versions() == [4, 3]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["student.onnx", "golden.safetensors", "manifest.json", "manifest.sig"])
def test_a_tampered_release_is_refused_and_banned_while_the_old_one_serves(start, mirror, caplog, file):
    device = start()
    device.hears_of(mirror.publish(1))
    announced = mirror.publish(2)
    flip(mirror.folder / "2" / file)
    device.hears_of(announced)
    assert device.version == 1
    assert device.shelf.ban_on(announced[1]) is not None
    assert "is refused" in device.hears_of(announced)
    assert sum("refused and the old one goes on" in record.message for record in caplog.records) == 1


def test_a_mirror_that_has_mended_itself_is_asked_again_later_and_whole_files_are_not_fetched_twice(start, mirror):
    device = start()
    announced = mirror.publish(1)
    flip(mirror.folder / "1" / "student.safetensors")
    device.hears_of(announced)
    flip(mirror.folder / "1" / "student.safetensors")
    mirror.asked.clear()
    device.now_s += 601
    device.hears_of(announced)
    assert device.version == 1
    fetched = [path.rsplit("/", 1)[1] for path in mirror.asked]
    assert "student.safetensors" in fetched
    assert "student.onnx" not in fetched


def test_a_release_signed_by_somebody_else_is_refused(start, mirror):
    device = start()
    device.hears_of(mirror.publish(1, key=Ed25519PrivateKey.generate()))
    assert device.version is None


def test_another_release_than_the_announced_one_is_refused(start, mirror):
    device = start()
    mirror.publish(1)
    mirror.publish(2)
    with pytest.raises(Tampered, match="announced release 2 and gave another"):
        device.shelf.install(2, "0" * 64)


def test_a_signed_release_that_fails_its_golden_set_here_is_banned_for_good(start, mirror, stand_in):
    device = start()
    device.hears_of(mirror.publish(1))
    announced = mirror.publish(2, rows=-stand_in.centres())
    with pytest.raises(Unsound, match="fidelity fell"):
        device.shelf.install(*announced)
    device.now_s += 1e9
    assert "golden set" in device.hears_of(announced)
    assert device.version == 1
    assert device.shelf.versions() == [1]


def test_a_fog_that_is_down_is_tried_again(start, mirror):
    device = start()
    announced = mirror.publish(1)
    (mirror.folder / "1" / "judge.onnx").rename(mirror.folder / "judge.onnx")
    with pytest.raises(LinkDown):
        device.hears_of(announced)
    (mirror.folder / "judge.onnx").rename(mirror.folder / "1" / "judge.onnx")
    assert device.upgrade.news.is_set()
    device.upgrade.step()
    assert device.version == 1


def test_a_served_release_whose_bytes_changed_on_disk_stops_the_start_once_and_the_one_before_serves(start, mirror):
    device = start()
    device.hears_of(mirror.publish(1))
    announced = mirror.publish(2)
    device.hears_of(announced)
    flip(device.folder / "2" / "student.onnx")
    device = start()
    with pytest.raises(Tampered, match="start the agent again"):
        device.upgrade.restore()
    assert (device.folder / "2.refused").exists()
    device = start()
    device.upgrade.restore()
    assert device.version == 1
    device.hears_of(announced)
    assert device.version == 2


def test_the_devices_own_adapter_survives_a_restart_and_not_a_new_release(start, mirror, stand_in):
    device = start()
    device.hears_of(mirror.publish(1))
    device.upgrade.adopt(device.serving.served.release, stand_in.good_adapter())
    drawn = device.serving.answer([7], seed=1)
    device = start()
    device.upgrade.restore()
    assert device.serving.served.adapted
    assert (device.serving.answer([7], seed=1) == drawn).all()
    device.hears_of(mirror.publish(2))
    assert not device.serving.served.adapted


def test_an_adapter_of_a_release_that_was_exchanged_meanwhile_is_not_served(start, mirror, stand_in):
    device = start()
    device.hears_of(mirror.publish(1))
    old = device.serving.served.release
    device.hears_of(mirror.publish(2))
    device.upgrade.adopt(old, stand_in.good_adapter())
    assert not device.serving.served.adapted


def test_enrolling_twice_with_the_same_key_gives_the_same_answer(mirror, tmp_path):
    http = FogHttp(mirror.address, mirror.ca)
    key = device_key(tmp_path / "device.pem")
    assert http.enroll("good", "device-1", public_text(key)) == ("123", "fog-a")
    assert http.enroll("good", "device-1", public_text(key)) == ("123", "fog-a")
    with pytest.raises(EnrolmentRefused, match="another device has used that token"):
        http.enroll("good", "device-2", public_text(device_key(tmp_path / "other.pem")))
    with pytest.raises(EnrolmentRefused, match="does not know that token"):
        http.enroll("wrong", "device-1", public_text(key))
    http.close()


def test_the_devices_key_is_made_once_and_only_its_user_may_read_it(tmp_path):
    first = public_text(device_key(tmp_path / "device.pem"))
    assert public_text(device_key(tmp_path / "device.pem")) == first
    assert (tmp_path / "device.pem").stat().st_mode & 0o777 == 0o600
    (tmp_path / "device.pem").write_text("junk")
    with pytest.raises(StateError, match="is not this device's key"):
        device_key(tmp_path / "device.pem")


def test_a_fog_with_another_certificate_is_not_talked_to(mirror, tmp_path):
    ours = tmp_path / "other.pem"
    ours.write_text("no certificate")
    with pytest.raises(ConfigError, match="holds no certificate"):
        FogHttp(mirror.address, ours)
    with pytest.raises(ConfigError, match="there is no certificate"):
        FogHttp(mirror.address, tmp_path / "missing.pem")
