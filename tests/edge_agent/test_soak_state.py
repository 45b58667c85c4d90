"""Thirty days of a whole agent on a virtual clock: nothing that it keeps, on disk or in memory, grows with its age."""

import datetime
import gc
import logging
import tempfile
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import crash_life
import crash_world
import numpy as np
import pytest
from stand_in_release import manifest_digest

from edge_agent import app
from edge_agent.budget import Cost
from edge_agent.drivers.sqlite_diary import DAYS_KEPT
from edge_agent.drivers.sqlite_journal import ANSWERS_WITH_BYTES
from edge_agent.healing.incident import Incident, Outcome
from protos.codec import encode_tensors
from protos.state_folder import write_atomically

DAYS, LOOKS, FILES, PER_FILE, ROUNDS, REQUESTS = 30, 12, 4, 32, 2, 20
MAX_BYTES = 64 << 10
SETTLED_DAY = 15  # by then all but the longest of the agent's buffers have been full once
GROWTH_BYTES = 256 << 10  # in the fifteen days after that, whose samples alone would be some 600 KB
MEMORY_DISK = Path("/dev/shm")


@dataclass
class Month:
    """An agent, its surroundings and what was measured at the end of each day. Nothing is saved."""

    agent: app.Agent
    world: crash_world.World
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    file_bytes: list[int] = field(default_factory=list)
    heap_bytes: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    rounds: int = 0

    def live(self, day):
        agent, ask = self.agent, self.agent._operations()
        for at in range(FILES):
            features = self.rng.standard_normal((PER_FILE, 1, 4, 4), np.float32)
            tensors = {"features": features, "conditions": self.rng.integers(5, 10, PER_FILE)}
            write_atomically(self.world.spool / f"{day}-{at}.safetensors", encode_tensors(tensors))
            agent._sources._ingest(agent.stop)
        for at in range(LOOKS):
            agent._operations()["pause" if at % 2 else "resume"]({})
            agent._look()
            agent._count()
        ask["resume"]({})
        for _ in range(ROUNDS):
            self.rounds += 1
            crash_life.answer_round(agent, self.world, self.rounds)
        for seed in range(REQUESTS):
            ask["infer"]({"conditions": [seed % 5], "seed": seed})
        agent._diary.charge(app.today(), Cost(10.0, 1000))
        incident = Incident(1, 2, (), (), (), Outcome.HEALED, "it went by itself")
        agent._healing._incidents.keep(agent._healing._incidents.state(), [incident])
        agent._answers._purse.spend(1.0)
        agent._answers._purse.look()
        agent._write_status()

    def measure(self):
        gc.collect()
        self.heap_bytes.append(tracemalloc.get_traced_memory()[0])
        self.file_bytes.append(sum(path.stat().st_size for path in self.world.state.rglob("*") if path.is_file()))
        self.samples.append(self.agent._memory.size())


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    published = tmp_path_factory.mktemp("published")
    crash_world.publish(published)
    patch = pytest.MonkeyPatch()
    place = MEMORY_DISK if MEMORY_DISK.is_dir() else tmp_path_factory.mktemp("month")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        world = crash_world.World(Path(folder), published)
        crash_world.stand_in(world, patch.setattr)
        settings = crash_world.settings_of(world)
        memory = settings.memory.model_copy(update={"max_bytes": MAX_BYTES})
        limits = settings.limits.model_copy(update={"trend_s": 0.5})  # looks are remembered by the clock on the wall
        agent = app.Agent(settings.model_copy(update={"memory": memory, "limits": limits}))
        agent._upgrade.announce(1, manifest_digest(published / "1"))
        agent._upgrade.step()
        crash_life.pass_trials(agent)
        month = Month(agent, world)
        patch.setattr(logging.root, "level", logging.CRITICAL)  # what pytest keeps of a log is no leak of ours
        tracemalloc.start()
        for day in range(DAYS):
            today = datetime.date(2026, 6, 1) + datetime.timedelta(days=day)
            patch.setattr(app, "today", lambda today=today: today)
            month.live(day)
            month.measure()
        tracemalloc.stop()
        yield month
        agent.close()
    patch.undo()


def test_the_kept_samples_stay_within_their_bytes_while_the_stream_goes_on(month):
    assert month.agent.status()["samples"]["seen"] == DAYS * FILES * PER_FILE
    rows = month.agent._database.rows("SELECT sum(length(features) + length(embedding)) FROM samples")
    assert rows[0][0] <= MAX_BYTES
    assert month.samples[-1] == pytest.approx(month.samples[SETTLED_DAY], rel=0.1)


def test_the_state_folder_stops_growing(month):
    assert month.file_bytes[-1] <= 1.25 * month.file_bytes[SETTLED_DAY], month.file_bytes


def test_pythons_memory_stops_growing(month):
    assert month.heap_bytes[-1] - month.heap_bytes[SETTLED_DAY] < GROWTH_BYTES, month.heap_bytes


def test_of_answers_only_the_latest_keep_their_bytes_and_every_round_is_charged(month):
    database = month.agent._database
    assert database.rows("SELECT count(*) FROM answers WHERE delta IS NOT NULL") == [(ANSWERS_WITH_BYTES,)]
    assert sum(each.rounds for each in month.agent._journal.spendings()) == month.rounds == DAYS * ROUNDS


def test_the_diary_holds_the_days_and_the_decisions(month):
    days = month.agent._database.rows("SELECT day, bytes FROM days")
    assert len(days) == DAYS <= DAYS_KEPT
    assert all(moved >= 1000 for _, moved in days)
    assert len(month.agent._diary.decisions(200)) == 200


def test_no_file_is_left_over(month):
    left = {path.name for path in month.world.state.rglob("*") if path.name.endswith((".draft", ".partial"))}
    assert left == set()
    assert len(list((month.world.state / "learning").iterdir())) == 1
