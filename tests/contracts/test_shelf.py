"""What a shelf of releases promises, fed by a fog's mirror over TLS; one that stays open or is opened anew."""

import time

import numpy as np
import pytest
from opened_anew import OpenedAnew
from small_world import Mirror
from stand_in_release import PUBLIC_KEY, bad_adapter, centres, good_adapter, zero_adapter

from edge_agent.drivers.fog_http import FogHttp
from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_store import Database
from edge_agent.slots import PERSONAL, SHARED
from learning_core.errors import DewfallError
from protos.certificates import CertificateFiles, ensure_certificate

UNSOUND = {"rows": -centres()}  # is signed, and draws the opposite of what it says


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    files = CertificateFiles(*(folder / name for name in ("fog.crt", "fog.ca.key", "leaf.crt", "leaf.key")))
    ensure_certificate(files, "fog-a", ["127.0.0.1"], time.time())
    return files


@pytest.fixture
def mirror(tmp_path, tls):
    (tmp_path / "mirror").mkdir()
    mirror = Mirror(tmp_path / "mirror", (tls.certificate, tls.private_key))
    yield mirror
    mirror.close()


@pytest.fixture(params=["open", "opened anew"])
def shelf(request, tmp_path, mirror, tls):
    http, path = FogHttp(mirror.address, tls.authority), tmp_path / "agent.db"

    def on(database):
        return ReleaseClient(http, tmp_path / "releases", PUBLIC_KEY, SqliteJournal(database))

    if request.param == "opened anew":
        yield OpenedAnew(path, on)
    else:
        database = Database(path)
        yield on(database)
        database.close()
    http.close()


def draws(release):
    """What it draws of a known condition."""
    noise = np.random.default_rng(0).standard_normal((1, 1, 4, 4), np.float32)
    return release.engine.generate(noise, np.array([2]), 4, 1.0)


def same(left, right):
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_a_new_shelf_is_empty(shelf):
    assert (shelf.versions(), shelf.digest_of(1), shelf.ban_on("x")) == ([], None, None)
    with pytest.raises(DewfallError):
        shelf.load(1)
    with pytest.raises(DewfallError):
        shelf.set_aside(1)
    shelf.prune([])
    shelf.drop(SHARED)


def test_what_was_installed_is_there_and_is_loaded_as_it_was_without_the_fog(shelf, mirror):
    version, digest = mirror.publish(1)
    installed = shelf.install(version, digest)
    assert (installed.version, installed.digest) == (version, digest)
    assert (shelf.versions(), shelf.digest_of(1)) == ([1], digest)
    mirror.asked.clear()
    loaded = shelf.load(1)
    assert (loaded.version, loaded.digest, mirror.asked) == (version, digest, [])
    np.testing.assert_array_equal(draws(loaded), draws(installed))
    shelf.install(version, digest)
    assert mirror.asked == []


def test_the_newest_is_named_first(shelf, mirror):
    for version in (2, 10, 9):
        shelf.install(*mirror.publish(version))
    assert shelf.versions() == [10, 9, 2]


def _unsigned(mirror):
    version, digest = mirror.publish(2)
    (mirror.folder / "2" / "manifest.sig").write_bytes(bytes(64))
    return version, digest


def _bent(mirror):
    version, digest = mirror.publish(2)
    (mirror.folder / "2" / "judge.onnx").write_bytes(b"rubbish")
    return version, digest


def _renamed(mirror):
    _, digest = mirror.publish(2)
    (mirror.folder / "2").rename(mirror.folder / "3")
    return 3, digest


@pytest.mark.parametrize(
    "publish",
    [
        lambda mirror: mirror.publish(2, **UNSOUND),
        _unsigned,
        _bent,
        lambda mirror: (mirror.publish(2)[0], "0" * 64),
        _renamed,
    ],
    ids=["unsound", "unsigned", "bent", "another digest", "another version"],
)
def test_what_is_not_sound_changes_nothing_and_is_not_asked_for_again(shelf, mirror, publish):
    _, good = mirror.publish(1)
    shelf.install(1, good)
    version, digest = publish(mirror)
    with pytest.raises(DewfallError):
        shelf.install(version, digest)
    assert (shelf.versions(), shelf.digest_of(1), shelf.load(1).version) == ([1], good, 1)
    assert shelf.ban_on(digest)
    mirror.asked.clear()
    with pytest.raises(DewfallError, match="banned"):
        shelf.install(version, digest)
    assert mirror.asked == []


def test_a_fog_that_is_away_bans_nothing(shelf, mirror):
    version, digest = mirror.publish(1)
    student = mirror.folder / "1" / "student.onnx"
    data = student.read_bytes()
    student.unlink()
    with pytest.raises(DewfallError):
        shelf.install(version, digest)
    assert (shelf.versions(), shelf.ban_on(digest)) == ([], None)
    student.write_bytes(data)
    assert shelf.install(version, digest).version == 1


def test_what_was_changed_on_the_disk_is_not_loaded_and_can_be_put_out_of_the_way(shelf, mirror, tmp_path):
    version, digest = mirror.publish(1)
    shelf.install(version, digest)
    student = tmp_path / "releases" / "1" / "student.onnx"
    student.write_bytes(b"rubbish")
    with pytest.raises(DewfallError):
        shelf.load(1)
    assert shelf.versions() == [1]
    aside = shelf.set_aside(1)
    assert (tmp_path / "releases" / aside / "student.onnx").read_bytes() == b"rubbish"
    assert (shelf.versions(), shelf.digest_of(1)) == ([], None)
    assert shelf.install(version, digest).version == 1


def test_an_adapter_is_found_again_by_its_digest_kind_and_release_and_else_not(shelf, mirror):
    first, second = (shelf.install(*mirror.publish(version)) for version in (1, 2))
    name = shelf.keep_adapter(first, SHARED, good_adapter())
    assert name == shelf.keep_adapter(first, SHARED, good_adapter())
    assert name != shelf.keep_adapter(first, SHARED, bad_adapter())
    assert same(shelf.adapter(first, SHARED, name), good_adapter())
    for release, kind, of in ((second, SHARED, name), (first, PERSONAL, name), (first, SHARED, "0" * 64)):
        assert shelf.adapter(release, kind, of) is None


def test_an_adapter_whose_bytes_were_changed_is_none(shelf, mirror, tmp_path):
    release = shelf.install(*mirror.publish(1))
    name = shelf.keep_adapter(release, SHARED, good_adapter())
    other = shelf.keep_adapter(release, SHARED, bad_adapter())
    (path,) = (tmp_path / "releases").glob(f"*{name}*")
    (taken,) = (tmp_path / "releases").glob(f"*{other}*")
    for data in (taken.read_bytes(), path.read_bytes()[:-1], b""):
        path.write_bytes(data)
        assert shelf.adapter(release, SHARED, name) is None


def test_of_a_kind_only_the_named_adapters_are_kept_and_of_a_dropped_kind_none(shelf, mirror):
    first, second = (shelf.install(*mirror.publish(version)) for version in (1, 2))
    adapters = (zero_adapter(), good_adapter(), bad_adapter())
    of_first = [shelf.keep_adapter(first, SHARED, each) for each in adapters]
    of_second = [shelf.keep_adapter(second, SHARED, each) for each in adapters]
    own = shelf.keep_adapter(first, PERSONAL, good_adapter())

    def there(release, kind, names):
        return [name for name in names if shelf.adapter(release, kind, name) is not None]

    shelf.keep_only(first, SHARED, of_first[1:2])
    assert there(first, SHARED, of_first) == of_first[1:2]
    assert (there(second, SHARED, of_second), there(first, PERSONAL, [own])) == (of_second, [own])
    shelf.drop(SHARED)
    assert there(first, SHARED, of_first) == there(second, SHARED, of_second) == []
    assert there(first, PERSONAL, [own]) == [own]


def test_what_is_pruned_is_gone_with_what_was_learned_on_it(shelf, mirror):
    releases = {version: shelf.install(*mirror.publish(version)) for version in (1, 2, 3)}
    names = {version: shelf.keep_adapter(release, SHARED, good_adapter()) for version, release in releases.items()}
    shelf.prune([3, 1])
    assert shelf.versions() == [3, 1]
    found = [shelf.adapter(release, SHARED, names[version]) is not None for version, release in releases.items()]
    assert found == [True, False, True]
    with pytest.raises(DewfallError):
        shelf.load(2)
