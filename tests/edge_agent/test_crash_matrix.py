"""kill -9 before every step that changes what is on a device's disk: nothing is lost, sent twice or forgotten."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random

import pytest

SCRIPT = Path(__file__).with_name("crash_nursery.py")
MEMORY_DISK = Path("/dev/shm")
NO_KILL, NO_LIFE = -1, -2
AT_ONCE = 2
EVERY_TIME = 1  # of a site: its first step and its last; what lies between does the same to other values
WANTED_SITES = 30


class Nursery:
    """A warm process that forks one life after the other."""

    def __init__(self, folder, name):
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, str(SCRIPT), str(folder / f"published-{name}")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, env=environ, text=True, **pipes)
        self._folders = (folder / f"{name}-{number}" for number in count())

    def live(self, kill_at=NO_KILL, after=NO_LIFE, spoil=False):
        """Ends, killed sites, error and sites of a life that is killed, one that may be, and one that may not."""
        asked = {"folder": str(next(self._folders)), "kill_at": kill_at, "after": after, "spoil": spoil}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """In memory where that is possible: a kill loses nothing the kernel has, so that a disk would only be slower."""
    if not MEMORY_DISK.is_dir():
        yield tmp_path_factory.mktemp("lives")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK, prefix="dewfall-lives-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def nurseries(folder):
    nurseries = [Nursery(folder, name) for name in range(AT_ONCE)]
    yield nurseries
    for nursery in nurseries:
        nursery.close()


@pytest.fixture(scope="module")
def quiet(nurseries):
    """The sites of a life nobody kills, in order."""
    life = nurseries[0].live()
    assert life["ends"] == [0], life["error"]
    return life["sites"]


def points_of(sites):
    """Where to kill: the first and the last step at every site."""
    places = {site: [at for at, each in enumerate(sites) if each == site] for site in set(sites)}
    return sorted({at for found in places.values() for at in (*found[:EVERY_TIME], *found[-EVERY_TIME:])})


def all_of(nurseries, kills):
    """What became of each (kill_at, after)."""
    shares = [kills[start :: len(nurseries)] for start in range(len(nurseries))]

    def lives(nursery, share):
        return [(kill, nursery.live(*kill)) for kill in share]

    with ThreadPoolExecutor(len(nurseries)) as threads:
        return [life for done in threads.map(lives, nurseries, shares) for life in done]


def told(failed):
    """Where each was killed, in which step of its life that was, and the end of what went wrong."""
    return "\n".join(f"{kill} {' and '.join(life['killed'])}:\n{life['error'][-600:]}" for kill, life in failed)


@pytest.mark.timeout(300)
def test_a_device_killed_before_any_persisted_step_loses_nothing_and_does_nothing_twice(nurseries, quiet):
    lives = all_of(nurseries, [(at, NO_LIFE) for at in points_of(quiet)])
    failed = [(kill, life) for kill, life in lives if life["ends"] != [-9, 0]]
    assert not failed, told(failed)
    hit = sorted({life["killed"][0] for _, life in lives})
    assert len(hit) >= WANTED_SITES, "\n".join(hit)
    assert set(hit) == set(quiet)


@pytest.mark.timeout(300)
def test_a_device_killed_again_while_it_recovers_still_comes_through(nurseries, quiet):
    dice = Random(5)
    kills = [(dice.randrange(len(quiet)), dice.randrange(12)) for _ in range(10)]
    failed = [(kill, life) for kill, life in all_of(nurseries, kills) if life["ends"][-1] != 0]
    assert not failed, told(failed)


@pytest.mark.timeout(300)
def test_a_device_killed_anywhere_while_it_sets_a_damaged_database_aside_still_knows_what_it_spent(nurseries, quiet):
    late = len(quiet) - 3
    whole = nurseries[0].live(late, NO_LIFE, spoil=True)
    assert whole["ends"] == [-9, 0], whole["error"]
    mending = [at for at, site in enumerate(whole["sites"]) if "sqlite_" in site or "second_copy" in site]
    assert len(mending) >= 10, whole["sites"]
    lives = all_of(nurseries, [(late, at, True) for at in mending])
    failed = [(kill, life) for kill, life in lives if life["ends"] != [-9, -9, 0]]
    assert not failed, told(failed)
