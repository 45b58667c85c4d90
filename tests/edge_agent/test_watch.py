import threading

import pytest

from edge_agent.app import Agent
from edge_agent.config import AgentSettings, Limits
from edge_agent.governor import Situation
from edge_agent.values import Action, Quality, Reading, Reason, Telemetry
from edge_agent.watch import Watch
from learning_core.errors import StateError


class Simulated:
    """A device with a temperature and mains."""

    def __init__(self):
        self.temp_c = 50.0

    def read(self):
        known = [Reading(value, "", 0.0, Quality.OK, "") for value in (self.temp_c, 0.0, 1.0, 1.0)]
        return Telemetry(*known)


class World:
    def __init__(self, dwell_s=0.0, trend_s=600.0):
        self.device, self.turns, self.now_s, self.disk_is_full = Simulated(), [], 0.0, False
        self.situation = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=99)
        limits = Limits(min_dwell_s=dwell_s, trend_s=trend_s)
        self.watch = Watch(self.device, limits, lambda: self.situation, self.tell, clock=lambda: self.now_s)

    def tell(self, decision):
        self.turns.append(decision)
        if self.disk_is_full:
            raise StateError("the disk is full")

    def at(self, temp_c):
        self.device.temp_c = temp_c
        self.now_s += 0.5
        return self.watch.look().reason


def test_heat_stops_training_until_the_device_has_cooled_down_well():
    world = World()
    reasons = [world.at(temp) for temp in (50, 71, 68, 64, 68)]
    assert reasons == [Reason.READY, Reason.HEAT, Reason.HEAT, Reason.READY, Reason.READY]
    assert [turn.reason for turn in world.turns] == [Reason.READY, Reason.HEAT, Reason.READY]
    assert world.watch.peak_c == 71


def test_a_decision_nobody_has_renewed_is_not_relied_on():
    world = World()
    world.at(50)
    assert world.watch.decision().action is Action.TRAIN
    world.now_s += 5.1
    assert world.watch.decision().reason is Reason.HEAT_UNKNOWN


def test_before_the_first_look_nothing_is_allowed():
    assert World().watch.decision().action is Action.WAIT


def test_only_turns_are_told_and_they_keep_their_time():
    world = World()
    for _ in range(5):
        world.at(50)
    assert len(world.turns) == len(world.watch.turns) == 1
    assert world.watch.turns[0].at_s > 1e9


def test_a_device_that_stopped_starts_again_only_after_the_dwell_and_stops_at_once():
    world = World(dwell_s=2.0)
    reasons = [world.at(temp) for temp in (50, 71, 64, 64, 64, 64, 71)]
    assert reasons == [Reason.READY, Reason.HEAT, *[Reason.DWELL] * 3, Reason.READY, Reason.HEAT]


def test_a_chip_that_warms_quickly_is_stopped_before_it_is_too_hot():
    world = World(trend_s=2.0)
    reasons = [world.at(temp) for temp in (50, 52, 54, 56)]  # 4 °C a second, and 14 °C left to the limit
    assert reasons[-1] is Reason.HEAT_SOON
    assert "would reach 70 °C in 4 s" in world.turns[-1].sentence  # 3.5


def test_a_breach_holds_even_when_nobody_can_write_it_down():
    world = World()
    world.at(50)
    world.disk_is_full = True
    with pytest.raises(StateError):
        world.at(80)
    assert world.watch.decision().reason is Reason.HEAT


def test_a_look_does_not_wait_for_a_disk_that_is_busy(tmp_path, certificate):
    fog = {"address": "127.0.0.1:1", "ca": str(certificate[0]), "release_key": "0" * 64}
    agent = Agent(AgentSettings(name="a", state=tmp_path / "state", fog=fog, telemetry={"root": tmp_path}))
    agent._watch.look()
    looked = threading.Event()
    look = threading.Thread(target=lambda: (agent._watch.look(), looked.set()))
    with agent._database.transaction():  # as whoever writes, or reads all samples
        look.start()
        assert looked.wait(5)
    look.join()
    agent.close()
