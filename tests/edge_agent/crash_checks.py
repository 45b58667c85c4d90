"""What holds for a device at any moment of its life, however often it was killed, and what a whole life comes to."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from crash_world import FILES, FORGOTTEN, GIVEN, OFFLOADED, samples_of
from stand_in_release import PUBLIC_KEY, manifest_digest

from edge_agent import app
from edge_agent.healing.incident import Outcome
from protos.release import verify_release


def check(agent, world):
    """What holds at any moment, whatever happened before."""
    status = json.loads(json.dumps(agent.status(), allow_nan=False))
    check_vital(agent, world, status)
    if not world.told("spoiled"):
        check_counts(agent, world, status)


def check_vital(agent, world, status):
    """What outlives the database itself."""
    check_served(agent, world, status)
    rounds = {line.split()[1] for line in world.told("sent ")}
    answers = {tuple(line.split()[1:]) for line in world.told("sent ")}
    assert len(answers) == len(rounds), "a round was answered with different bytes"
    least = {1.0: len(rounds), 4.0: OFFLOADED * bool(world.told("paid"))}
    for noise, sent in least.items():
        spent = spent_at(agent, noise)
        assert spent >= sent, f"{spent} are charged at noise {noise:g} and {sent} were sent"
        twice = agent._database._copy.read()[0].spendings.get((noise, 1.0), 0)
        assert twice >= sent, "the second copy knows less than was sent"
    if (wanted := world.told("wants")) and (told := world.told("told")) and told[-1][5:] == wanted[-1][6:]:
        assert str(status["paused"]) == told[-1][5:], "a pause was lost"
    if world.told("banned"):
        digest = manifest_digest(world.published / "2")
        assert agent._upgrade._shelf.ban_on(digest) is not None, "a ban was lost"
    if world.told("forgot"):
        check_forgotten(world)
    written = world.state / "status.json"
    assert not written.exists() or json.loads(written.read_text()), "status.json is not whole"


def check_counts(agent, world, status):
    """What is in the database alone."""
    if world.told("charged"):
        today = agent._meter.spent(app.today())
        assert today.joules >= GIVEN["joules"], "energy of today was lost"
        assert today.bytes >= GIVEN["bytes"], "traffic of today was lost"
        assert status["inference"]["joules_today"] >= GIVEN["joules"], "what answers took today was lost"
    total = sum(FILES.get(line.split()[1], 0) for line in world.told("dropped")) + FILES["e"] * bool(
        world.told("sends")
    )
    assert status["samples"]["seen"] <= total, "samples were counted twice"
    if world.told("healed"):
        assert agent._healing._incidents.counts()[Outcome.HEALED] >= 1, "an incident was lost"


def spent_at(agent, noise):
    return sum(each.rounds for each in agent._journal.spendings() if each.noise_multiplier == noise)


def check_served(agent, world, status):
    told = [line for line in world.told() if line.startswith(("served", "wants back"))]
    if not told:
        return
    assert status["release"] is not None, "nothing is served any more"
    version, least = status["release"]["version"], 3 if told[-1] == "wants back" else int(told[-1].split()[1])
    assert version >= least, f"release {least} was served, now {version} is"
    verify_release(world.state / "releases" / str(version), PUBLIC_KEY)
    assert drawn_of(agent).shape == (1, 1, 4, 4)


def drawn_of(agent):
    """One sample, through the same door as everybody."""
    answer, payload = agent._operations()["infer"]({"conditions": [3], "seed": 1})
    return np.frombuffer(payload, "<f4").reshape(answer["shape"])


def check_forgotten(world):
    rows = [row for name in "ab" for row, its in zip(*samples_of(name), strict=True) if its == FORGOTTEN]
    for path in [path for path in world.state.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        assert not any(row.tobytes()[:16] in data for row in rows), f"{path.name} holds what was forgotten"


def check_end(agent, world):
    """What a whole life comes to, kills or not."""
    status = agent.status()
    assert status["samples"]["seen"] == sum(FILES.values()), "samples were lost or counted twice"
    assert (spent_at(agent, 1.0), spent_at(agent, 4.0)) == (3, OFFLOADED), "something was charged twice"
    assert status["release"]["version"] == 4
    assert status["paused"] is False
    assert not list(world.spool.glob("*.safetensors"))
    assert {3, 4} <= set(agent._upgrade._shelf.versions())
    kept, unsure = agent._memory.size(), status["samples"]["unsure"]
    expected = sum(int((samples_of(name)[1] != FORGOTTEN).sum()) for name in FILES) - unsure
    assert kept == expected, f"{kept} samples are kept, not {expected}"
    asked = list((world.spool / "unsure").glob("*.safetensors"))
    assert len(asked) == unsure > 0, f"a person is asked about {len(asked)} samples, not about {unsure}"
    assert (world.spool / "refused" / "rubbish.safetensors").exists(), "a bad file was neither taken in nor kept"
