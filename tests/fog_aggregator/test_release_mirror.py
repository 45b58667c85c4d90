import json
import shutil

import pytest

from fog_aggregator.drivers.release_mirror import ReleaseMirror
from fog_aggregator.plans import Mirrored
from fog_aggregator.uplink import ReleaseAdopted, SharedAdopted, exchange
from learning_core.errors import LinkDown, StateError, Tampered
from learning_core.updates import ModelVersion
from protos.release import MANIFEST, SIGNATURE, STUDENT_GRAPH, sum_of


def announced(folder, version=1):
    return Mirrored(version, sum_of((folder / MANIFEST).read_bytes()).sha256)


@pytest.fixture
def published(tmp_path, cloud):
    return tmp_path / "published" / "1"


@pytest.fixture
def mirror(tmp_path, release_key):
    return ReleaseMirror(tmp_path / "mirror", release_key)


def test_a_release_is_shown_whole_and_survives_a_restart(mirror, cloud, published, tmp_path, release_key):
    assert mirror.latest() is None

    mirror.install(announced(published), cloud)

    for again in (mirror, ReleaseMirror(tmp_path / "mirror", release_key)):
        assert again.latest()[0] == announced(published)
        assert set(again.latest()[1]) == {"head.lora_B", "label_rows"}
        assert again.file(1, STUDENT_GRAPH).read_bytes() == (published / STUDENT_GRAPH).read_bytes()


@pytest.mark.parametrize(
    "name", ["../journal.sqlite", "..", ".", "", "/etc/passwd", "nothing.onnx", "manifest.json/..", "a/../student.onnx"]
)
def test_only_names_in_the_manifest_lead_to_a_file(mirror, cloud, published, name):
    mirror.install(announced(published), cloud)

    assert mirror.file(1, name) is None
    assert mirror.file(2, STUDENT_GRAPH) is None


def test_a_broken_transfer_goes_on_where_it_stopped(mirror, cloud, published):
    fetched = []

    class Breaking:
        def fetch(self, release, name, offset):
            fetched.append((name, offset))
            for number, piece in enumerate(cloud.fetch(release, name, offset)):
                if name == STUDENT_GRAPH and number == 1 and offset == 0:
                    raise LinkDown("the line broke")
                yield piece

    with pytest.raises(LinkDown):
        mirror.install(announced(published), Breaking())
    assert mirror.latest() is None
    mirror.install(announced(published), Breaking())

    assert [offset for name, offset in fetched if name == STUDENT_GRAPH] == [0, 64 << 10]
    assert mirror.latest()[0].version == 1


@pytest.mark.parametrize("name", [STUDENT_GRAPH, MANIFEST, SIGNATURE])
def test_a_release_whose_bytes_were_changed_is_never_shown(mirror, cloud, published, name):
    release = announced(published)
    data = bytearray((published / name).read_bytes())
    data[len(data) // 2] ^= 1
    (published / name).write_bytes(data)

    with pytest.raises(Tampered):
        mirror.install(release, cloud)

    assert mirror.latest() is None


def test_a_changed_file_is_fetched_anew_and_not_continued(mirror, cloud, published):
    good = (published / STUDENT_GRAPH).read_bytes()
    (published / STUDENT_GRAPH).write_bytes(b"\0" * len(good))
    with pytest.raises(Tampered):
        mirror.install(announced(published), cloud)
    (published / STUDENT_GRAPH).write_bytes(good)

    mirror.install(announced(published), cloud)

    assert mirror.file(1, STUDENT_GRAPH).read_bytes() == good


def test_a_file_longer_than_its_line_in_the_manifest_is_refused(mirror, cloud, published):
    with (published / STUDENT_GRAPH).open("ab") as file:
        file.write(b"more")

    with pytest.raises(Tampered):
        mirror.install(announced(published), cloud)


def test_the_manifest_has_to_be_the_announced_one_and_of_that_release(mirror, cloud, published):
    with pytest.raises(Tampered, match="not the one the cloud announced"):
        mirror.install(Mirrored(1, "00" * 32), cloud)


def test_a_release_signed_by_somebody_else_is_refused(tmp_path, cloud, published):
    stranger = ReleaseMirror(tmp_path / "mirror", b"\1" * 32)

    with pytest.raises(Tampered, match="not signed by the release key"):
        stranger.install(announced(published), cloud)


def test_a_release_damaged_on_this_disk_is_fetched_again(mirror, cloud, published, tmp_path, release_key):
    mirror.install(announced(published), cloud)
    (tmp_path / "mirror" / "1" / STUDENT_GRAPH).write_bytes(b"bit rot")

    after = ReleaseMirror(tmp_path / "mirror", release_key)

    assert after.latest() is None
    after.install(announced(published), cloud)
    assert after.file(1, STUDENT_GRAPH).read_bytes() == (published / STUDENT_GRAPH).read_bytes()


def test_the_newest_two_releases_are_kept(mirror, cloud, publish, published, tmp_path):
    mirror.install(announced(published), cloud)
    for version in (2, 3):
        folder = publish(version)
        cloud.publish(folder)
        mirror.install(announced(folder, version), cloud)

    assert mirror.latest()[0].version == 3
    assert sorted(path.name for path in (tmp_path / "mirror").iterdir()) == ["2", "3"]
    assert mirror.file(1, STUDENT_GRAPH) is None


def test_a_full_or_read_only_disk_is_a_sentence(mirror, cloud, published, tmp_path):
    shutil.rmtree(tmp_path / "mirror")
    (tmp_path / "mirror").write_text("a file where the folder was")

    with pytest.raises(StateError, match="cannot be written"):
        mirror.install(announced(published), cloud)


def test_one_exchange_brings_the_release_and_the_next_its_shared_adapter(make_site, plain_device, cloud):
    site = make_site({"a": plain_device()}, state="other")
    assert site.journal.base().version == ModelVersion(1)
    cloud.version = ModelVersion(1, 4)

    events = list(exchange(site.journal, cloud, site.mirror, lambda _: None))

    assert events == [SharedAdopted(ModelVersion(1, 4))]
    assert list(exchange(site.journal, cloud, site.mirror, lambda _: None)) == []


def test_a_release_mirrored_before_a_crash_is_adopted_without_the_cloud(make_site, plain_device, cloud, publish):
    site = make_site({"a": plain_device()})
    folder = publish(2)
    cloud.publish(folder)
    site.mirror.install(announced(folder, 2), cloud)
    cloud.away = True

    events = []
    with pytest.raises(LinkDown):
        events.extend(exchange(site.journal, cloud, site.mirror, lambda _: None))
    assert site.journal.base().version == ModelVersion(2)


def test_an_exchange_tells_what_it_did(make_site, plain_device, cloud, publish):
    site = make_site({"a": plain_device()})
    folder = publish(2)
    cloud.publish(folder)

    assert site.exchange() == [ReleaseAdopted(announced(folder, 2))]
    assert json.loads((folder / MANIFEST).read_bytes())["version"] == 2
