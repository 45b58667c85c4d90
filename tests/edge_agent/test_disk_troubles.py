"""A device whose disk is full or read-only: said in one sentence, nothing lost, and what was served goes on."""

import contextlib
import errno
import os
import resource
import signal
import subprocess

import pytest
from device_in_trouble import Device, at_work, is_root, publish

from learning_core.errors import DewfallError, StateError
from protos.state_folder import StateFolder, write_atomically


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory)


@pytest.fixture
def device(tmp_path, published, monkeypatch):
    with at_work(tmp_path / "world", published, monkeypatch) as device:
        yield device


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def write_much(device):
    for at in range(200):
        device.agent._database.set_fact(f"filler {at}", "x" * 4000)


def fill(folder):
    """Take all the space there is."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 14)):
            pass


@is_root
def test_on_a_full_disk_it_serves_and_loses_nothing_and_goes_on_when_there_is_space(
    small_disk, published, monkeypatch, tmp_path
):
    monkeypatch.setattr("protos.state_folder.MIN_FREE_BYTES", 1 << 20)
    device = Device(small_disk / "world", published, monkeypatch)
    device.install(1)
    device.drop("a")
    device.answer(1)
    fill(small_disk)
    with pytest.raises(StateError, match="is full"):
        write_much(device)
    with pytest.raises(DewfallError, match="is full"):
        device.answer(2)
    with pytest.raises(StateError, match="full"):
        device.agent._write_status()
    assert device.serves() == 1
    assert device.agent.status()["rounds"]
    spent = sum(each.rounds for each in device.agent._journal.spendings())
    (small_disk / "filler").unlink()
    device.drop("b")
    device.answer(2)
    assert device.seen() == 30
    assert sum(each.rounds for each in device.agent._journal.spendings()) >= max(2, spent)
    device.start()
    assert device.serves() == 1
    device.close()


@is_root
def test_an_agent_does_not_start_on_a_full_disk_and_says_how_much_it_needs(small_disk, monkeypatch):
    (small_disk / "state").mkdir()
    fill(small_disk)
    with pytest.raises(StateError, match="is full; free at least 16 MiB"):
        StateFolder.open(small_disk / "state")


@is_root
def test_on_a_read_only_disk_no_agent_starts_and_what_it_served_is_still_there_later(
    small_disk, published, monkeypatch
):
    monkeypatch.setattr("protos.state_folder.MIN_FREE_BYTES", 1 << 20)
    device = Device(small_disk / "world", published, monkeypatch)
    device.install(1)
    device.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StateError, match="cannot be written; make it writable for this user"):
        StateFolder.open(small_disk / "world" / "state")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    device = Device(small_disk / "world", published, monkeypatch)
    assert device.serves() == 1
    device.close()


def test_a_disk_that_becomes_read_only_under_an_agent_is_said_and_serving_goes_on(device, monkeypatch):
    """The kernel does that to a disk with errors; here opening files to write and the database say so."""
    real = os.open

    def read_only(path, flags, *more, **named):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    device.agent._database.rows("PRAGMA query_only = ON")
    with pytest.raises(StateError, match="cannot be written; make it writable for this user"):
        device.agent._write_status()
    with pytest.raises(StateError, match=r"readonly database.* make its folder writable"):
        device.agent._database.set_fact("paused", True)
    assert device.serves() == 1
    assert device.agent.status()["samples"]["seen"] == 20


@pytest.mark.parametrize("limit", [0, 5000])
def test_a_write_that_may_not_grow_the_file_leaves_the_old_one_whole(tmp_path, limit):
    """What a quota does, without root: RLIMIT_FSIZE."""
    write_atomically(tmp_path / "status.json", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StateError):
            write_atomically(tmp_path / "status.json", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "status.json").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_database_that_may_not_grow_keeps_serving_and_takes_in_what_waited_later(device):
    pages = device.agent._database.rows("PRAGMA page_count")[0][0]
    device.agent._database.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateError, match="database or disk is full"):
        write_much(device)
    assert device.serves() == 1
    assert device.agent.status()["release"]["version"] == 1
    device.agent._database.rows("PRAGMA max_page_count = 1000000")
    device.drop("b")
    assert device.seen() == 30
