"""What every cold store promises, on the folder of files and on the one in memory that other tests use."""

import os
import subprocess
import sys

import pytest

from edge_agent.drivers.cold_files import ColdFiles
from learning_core.errors import StateError
from learning_core.memory.cold import InMemory


@pytest.fixture(params=["files", "memory"])
def cold(request, tmp_path):
    return ColdFiles(tmp_path / "cold") if request.param == "files" else InMemory()


def test_what_was_put_comes_back(cold):
    assert cold.put(7, b"seven" * 100) > 0
    assert cold.get(7) == b"seven" * 100
    assert list(cold.keys()) == [7]


def test_nothing_is_something_too(cold):
    cold.put(0, b"")
    assert cold.get(0) == b""


def test_the_last_put_counts(cold):
    cold.put(1, b"old")
    cold.put(1, b"new")
    assert cold.get(1) == b"new"
    assert list(cold.keys()) == [1]


def test_what_was_deleted_is_gone_and_the_others_stay(cold):
    for key in range(3):
        cold.put(key, bytes([key]))
    cold.delete([0, 2, 99])
    assert (cold.get(0), cold.get(1), cold.get(2)) == (None, b"\x01", None)
    assert list(cold.keys()) == [1]


def test_an_empty_store_has_no_keys_and_deleting_nothing_is_no_error(cold):
    cold.delete([])
    assert list(cold.keys()) == []
    assert cold.get(3) is None


def test_files_outlive_the_process_and_only_their_owner_may_read_them(tmp_path):
    ColdFiles(tmp_path).put(2**40, b"kept")
    assert ColdFiles(tmp_path).get(2**40) == b"kept"
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]


def test_a_file_counts_the_disk_blocks_it_takes(tmp_path):
    cold = ColdFiles(tmp_path)
    assert cold.put(1, b"small") == 4096
    assert cold.put(2, os.urandom(9000)) == 3 * 4096
    assert cold.put(3, bytes(100_000)) == 4096  # it is compressed


@pytest.mark.parametrize("at", [4, 10, -1])
def test_a_damaged_file_reads_as_gone(tmp_path, at):
    cold = ColdFiles(tmp_path)
    cold.put(1, b"some bytes that are kept")
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    assert cold.get(1) is None


def test_a_deleted_sample_leaves_no_file_and_a_crash_in_a_write_leaves_no_draft(tmp_path):
    cold = ColdFiles(tmp_path)
    cold.put(1, b"a face")
    (tmp_path / ".0000000000000002.zst.draft").write_bytes(b"half a face")
    cold = ColdFiles(tmp_path)
    cold.delete([1])
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_is_no_sample(tmp_path):
    (tmp_path / "backup.zst").write_bytes(b"")
    assert ColdFiles(tmp_path).keys() == []


def test_a_full_disk_says_what_to_do_and_keeps_the_old_file(tmp_path, monkeypatch):
    cold = ColdFiles(tmp_path)
    cold.put(1, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="is full; free at least"):
        cold.put(1, b"new")
    assert cold.get(1) == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_killed_while_it_writes_leaves_whole_files_only(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from edge_agent.drivers.cold_files import ColdFiles\n"
        "cold = ColdFiles(Path(sys.argv[1]))\n"
        "for key in range(100_000): cold.put(key, bytes([key % 251]) * 5000); print(key, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with child:
        told = [int(child.stdout.readline()) for _ in range(20)]
        child.kill()
    cold = ColdFiles(tmp_path)
    left = cold.keys()
    assert set(told) <= set(left)
    assert all(cold.get(key) == bytes([key % 251]) * 5000 for key in left)
