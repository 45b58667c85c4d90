from edge_agent.config import Limits
from edge_agent.governor import Situation
from edge_agent.values import Action, Quality, Reading, Reason, Telemetry
from edge_agent.watch import Watch


class Simulated:
    """A device with a temperature and mains."""

    def __init__(self):
        self.temp_c = 50.0

    def read(self):
        known = [Reading(value, "", 0.0, Quality.OK, "") for value in (self.temp_c, 0.0, 1.0, 1.0)]
        return Telemetry(*known)


class World:
    def __init__(self):
        self.device, self.turns, self.now_s = Simulated(), [], 0.0
        self.situation = Situation(paused=False, can_learn=True, budget_left=True, release=1, samples=99)
        self.watch = Watch(self.device, Limits(), lambda: self.situation, self.turns.append, clock=lambda: self.now_s)

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
