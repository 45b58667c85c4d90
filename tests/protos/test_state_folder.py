import errno
import os
import subprocess
import sys

import pytest

from learning_core.errors import StateError
from protos import state_folder
from protos.state_folder import StateFolder, write_atomically


def test_a_second_owner_is_refused_and_the_first_goes_on(tmp_path):
    with StateFolder.open(tmp_path / "s"), pytest.raises(StateError, match="in use by another process"):
        StateFolder.open(tmp_path / "s")
    StateFolder.open(tmp_path / "s").close()


def test_a_killed_owner_leaves_the_folder_free(tmp_path):
    code = """
import pathlib, sys, time
from protos.state_folder import StateFolder
held = StateFolder.open(pathlib.Path(sys.argv[1]))
print(1, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(StateError, match="in use"):
            StateFolder.open(tmp_path)
        owner.kill()
        owner.wait()
        StateFolder.open(tmp_path).close()


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(StateError, match="not a folder"):
        StateFolder.open(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "full"), (errno.EROFS, "cannot be written")])
def test_a_disk_that_cannot_take_it_keeps_the_old_file(tmp_path, monkeypatch, code, words):
    write_atomically(tmp_path / "a", b"old")

    def fail(_handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(state_folder.os, "fsync", fail)
    with pytest.raises(StateError, match=words):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_secrets_can_be_kept_from_other_users(tmp_path):
    write_atomically(tmp_path / "key", b"k", 0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
