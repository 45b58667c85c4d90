"""A device agent's life from its enrolment on, lived on from wherever it ended before.

Everything is the agent's own but the fog's HTTP side, the learner's arithmetic, the thermometer and the line to the
fleet.
"""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from crash_checks import check, check_end
from crash_points import REAL
from crash_world import FORGOTTEN, GIVEN, OFFLOADED, samples_of, settings_of
from stand_in_release import good_adapter, manifest_digest, zero_adapter

from edge_agent import app
from edge_agent.budget import Cost
from edge_agent.drivers.cold_files import ColdFiles
from edge_agent.healing.incident import Incident, Outcome
from learning_core.federation.accountant import Spending
from learning_core.updates import ModelVersion
from protos.codec import encode_params, encode_tensors
from protos.flower_records import Trained, TrainRequest


def live(world):
    """One life: check what the ones before it left, go on where they ended, check what came of it."""
    agent = app.Agent(settings_of(world))
    check(agent, world)
    if world.told("spoiled"):  # with its samples and counts gone the rest of the life would be another one
        agent.close()
        return
    agent.enroll()
    install(agent, world, 1)
    for name in "ab":
        drop(agent, world, name)
    answer_round(agent, world, 1)
    world.once("charged", lambda: charge(agent))
    set_pause(agent, world, True)
    agent._write_status()
    set_pause(agent, world, False)
    answer_round(agent, world, 2)
    answer_round(agent, world, 1)
    world.once("observed", lambda: observe(agent, world))
    world.once("forgot", lambda: agent._operations()["forget"]({"class": FORGOTTEN}))
    install(agent, world, 2)
    install(agent, world, 3)
    for name in "cdf":
        drop(agent, world, name)
    world.once("dropped rubbish", lambda: (world.spool / "rubbish.safetensors").write_bytes(b"no tensors"))
    agent._sources._ingest(agent.stop)
    answer_round(agent, world, 3)
    learn_personal(agent, world)
    world.once("paid", lambda: offload(agent))
    world.once("healed", lambda: heal(agent))
    install(agent, world, 4)
    go_back_and_forth(agent, world)
    keep_cold(world)
    agent._write_status()
    check(agent, world)
    check_end(agent, world)
    agent.close()


def install(agent, world, version):
    """The fog announces it; it is served, unless it is the one that is unsound or it was here already."""
    if f"served {version}" in world.told():
        return
    agent._upgrade.announce(version, manifest_digest(world.published / str(version)))
    agent._upgrade.step()
    pass_trials(agent)
    served = agent._serving.served.release.version
    assert served >= version or version == 2, f"release {version} was not installed, {served} is served"
    world.tell(f"served {served}" if version != 2 else "banned")


def pass_trials(agent):
    for trial in agent._upgrade.trials():
        agent._upgrade.pass_trial(trial)


def drop(agent, world, name):
    def put():
        features, conditions = samples_of(name)
        draft = world.folder / "draft"
        tensors = {"features": features} | ({} if name == "f" else {"conditions": conditions})  # nobody knows f's
        draft.write_bytes(encode_tensors(tensors))
        REAL["replace"](draft, world.spool / f"{name}.safetensors")

    world.once(f"dropped {name}", put)
    agent._sources._ingest(agent.stop)


def observe(agent, world):
    """A program sends until it is told that it need not send again; by their ids the device knows what it had."""
    features, conditions = samples_of("e")
    world.tell("sends")
    sent = [
        {"features": row.tolist(), "condition": int(condition), "id": f"e{at}"}
        for at, (row, condition) in enumerate(zip(features, conditions, strict=True))
    ]
    assert agent._operations()["observe"]({"observations": sent})[0]["done"] == len(sent)
    agent._sources._ingest(agent.stop)


def answer_round(agent, world, round_):
    """The fog asks; once it has the answer it may ask again, as fogs do."""
    agent._count()
    agent._watch.look()
    release = agent._serving.served.release.version
    request = TrainRequest("fog-a", round_, ModelVersion(release), zero_adapter(), 2.0, 1.0, 0.5, 30.0)
    reply = agent._participant.train(request)
    assert isinstance(reply, Trained), f"round {round_}: {reply}"
    sent = hashlib.sha256(encode_params(reply.update.update.delta)).hexdigest()
    world.tell(f"sent {round_} {sent}")
    pass_trials(agent)


def learn_personal(agent, world):
    """An adapter of this device alone is tried, is good, and is given up again."""

    def learn():
        release = agent._serving.served.release
        agent._upgrade.adopt_personal(release, good_adapter(), agent._upgrade.named(release)[0])
        pass_trials(agent)
        agent._operations()["rollback"]({"kind": "personal"})

    world.once("learned for itself", learn)


def offload(agent):
    """What offloading books before its first byte leaves, unless that was booked before a kill."""
    if agent._journal.paid() != ("a set", OFFLOADED):
        agent._journal.pay("a set", OFFLOADED, Spending(4.0, 1.0, OFFLOADED))


def heal(agent):
    """An incident that is over, and one look."""
    was = Incident(1, 2, (), (), (), Outcome.HEALED, "it went by itself")
    agent._healing._incidents.keep(agent._healing._incidents.state(), [was])
    agent._healing._healer.tick()


def go_back_and_forth(agent, world):
    """A person goes back from release 4, which bans it, and allows it again."""
    if world.told("back and forth"):
        return
    ask, digest = agent._operations(), manifest_digest(world.published / "4")
    world.tell("wants back")
    if agent._serving.served.release.version == 4:
        ask["rollback"]({"kind": "release"})
    if agent._upgrade._shelf.ban_on(digest) is not None:
        ask["lift"]({"digest": digest})
    agent._upgrade.announce(4, digest)
    agent._upgrade.step()
    pass_trials(agent)
    world.tell("served 4")
    world.tell("back and forth")


def charge(agent):
    agent._diary.charge(app.today(), Cost(**GIVEN))
    agent._look()
    agent._count()
    agent._answers._purse.spend(GIVEN["joules"])
    agent._answers._purse.look()


def set_pause(agent, world, value):
    """What a person wants is known before it is done; it holds from when they are told that it does."""
    if f"told {value}" in world.told():
        return
    world.tell(f"wants {value}")
    agent._operations()["pause" if value else "resume"]({})
    world.tell(f"told {value}")


def keep_cold(world):
    cold = ColdFiles(world.folder / "cold")
    there = cold.keys()
    assert all(cold.get(key) is not None for key in there), "a cold file is broken"
    for key in range(3):
        cold.put(key, bytes([key]) * 9000)
    cold.delete([1])
    assert cold.keys() == [0, 2]
