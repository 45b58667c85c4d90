"""A program that is warmed up once, and forks a child for each life asked for on its input."""

import json
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from crash_life import live
from crash_points import Points
from crash_world import World, publish, stand_in
from stand_in_release import CONDITIONS, PUBLIC_KEY

from protos.release import verify_release

NO_KILL, NO_LIFE = -1, -2


def spoil(world):
    """The disk loses the database's first pages, and its log."""
    path = world.state / "agent.db"
    data = path.read_bytes()
    path.write_bytes(bytes(len(data) // 2) + data[len(data) // 2 :])
    (world.state / "agent.db-wal").unlink(missing_ok=True)
    world.tell("spoiled")


def child(folder, published, kill_at):
    """A life in this process; its exit status is 0 when every check held."""
    world = World(folder, published)
    logging.basicConfig(filename=folder / "log", force=True)
    stand_in(world)
    points = Points(kill_at, world.tell)
    points.install()
    points.is_on = True
    live(world)
    points.is_on = False
    (folder / "sites.json").write_text(json.dumps(points.sites))


def nursery():
    """For each line {"folder", "kill_at", "after"}: a life killed there, then one that has to come to a good end.

    `after`: where the second life is killed too, before a third; -2 where there is no such life. `spoil`: whether the
    database is damaged after the first. Answers in one line.
    """
    published = Path(sys.argv[1])
    if not published.exists():
        publish(published)
    warm(published)
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        folder.mkdir()
        lives = (asked["kill_at"], asked["after"], NO_KILL) if asked["kill_at"] != NO_KILL else (NO_KILL,)
        ends = []
        for at in (at for at in lives if at != NO_LIFE):
            ends.append(in_child(folder, published, at))
            if asked["spoil"] and len(ends) == 1:
                spoil(World(folder, published))
        told = (folder / "world.log").read_text().splitlines()
        error = (folder / "error").read_text() if (folder / "error").exists() else ""
        sites = (folder / "sites.json").read_text() if (folder / "sites.json").exists() else "[]"
        killed = [each.removeprefix("killed ") for each in told if each.startswith("killed ")]
        shutil.rmtree(folder)
        print(json.dumps({"ends": ends, "killed": killed, "error": error, "sites": json.loads(sites)}), flush=True)  # noqa: T201


def warm(published):
    """Load what every life loads, in this process, which has to stay without threads to be forked."""
    verify_release(published / "1", PUBLIC_KEY)
    assert CONDITIONS


def in_child(folder, published, kill_at):
    pid = os.fork()
    if pid == 0:
        try:
            child(folder, published, kill_at)
            os._exit(0)
        except BaseException:
            (folder / "error").write_text(traceback.format_exc())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    nursery()
