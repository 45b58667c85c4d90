import stat
from pathlib import Path

import pytest

from cloud_server.drivers.identity import ensure_certificates, ensure_release_key
from learning_core.errors import StateError
from protos.release import read_release_key

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


def test_the_release_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path):
    first, second = ensure_release_key(tmp_path), ensure_release_key(tmp_path)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert read_release_key(tmp_path / "release.pub") == first.public_key().public_bytes_raw()


def test_a_damaged_release_key_is_never_replaced_silently(tmp_path: Path):
    ensure_release_key(tmp_path)
    (tmp_path / "release.key").write_text("damaged")
    with pytest.raises(StateError, match="restore it from a backup"):
        ensure_release_key(tmp_path)
    assert (tmp_path / "release.key").read_text() == "damaged"


def test_private_keys_of_the_server_are_not_for_others(tmp_path: Path):
    ensure_certificates(tmp_path, ("localhost",), NOW_S)
    for name in ("ca.key", "cloud.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_certificate_stays_until_a_name_is_added_or_it_runs_out(tmp_path: Path):
    first = ensure_certificates(tmp_path, ("localhost", "10.0.0.1"), NOW_S)
    authority = (tmp_path / "ca.crt").read_bytes()
    assert ensure_certificates(tmp_path, ("localhost",), NOW_S) == first
    named = ensure_certificates(tmp_path, ("localhost", "cloud.example"), NOW_S)
    assert named != first
    assert ensure_certificates(tmp_path, ("localhost",), NOW_S + 3640 * DAY_S) != named
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_a_key_without_its_certificate_after_a_kill_is_mended(tmp_path: Path):
    ensure_certificates(tmp_path, ("localhost",), NOW_S)
    certificate = (tmp_path / "cloud.crt").read_bytes()
    (tmp_path / "other").mkdir()
    key, _ = ensure_certificates(tmp_path / "other", ("localhost",), NOW_S)
    (tmp_path / "cloud.key").write_bytes(key)
    _, mended = ensure_certificates(tmp_path, ("localhost",), NOW_S)
    assert mended != certificate
