import numpy as np
import pytest

from edge_agent import trial
from edge_agent.config import Trials
from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.examination import Pace
from edge_agent.guard import Guard, Hold
from edge_agent.serving import Answered, Serving
from edge_agent.slots import RELEASE, SHARED, Slots
from edge_agent.trial import PATIENCE, Sign, Trial, sign_of
from edge_agent.upgrade import Upgrade
from learning_core.params import digest, scale

SETTINGS = Trials(answers=3, quiet_s=60.0)


def answered(value=0.0):
    return Answered(0.0, (1,), 1, "usual", 1.0, np.full((1, 1, 2, 2), value, np.float32))


@pytest.mark.parametrize(
    ("answers", "waited_s", "sign"),
    [
        ([], 0.0, Sign.NOTHING_YET),
        ([answered()] * 2, 59.0, Sign.NOTHING_YET),
        ([answered()] * 3, 0.0, Sign.ENOUGH),
        ([answered()] * 2, 60.0, Sign.QUIET),
        ([answered(), answered(np.nan)], 0.0, Sign.NOT_FINITE),
        ([answered(np.inf)] * 9, 99.0, Sign.NOT_FINITE),
    ],
)
def test_what_answers_say(answers, waited_s, sign):
    assert sign_of(answers, waited_s, SETTINGS) is sign


class Device:
    """A device whose clock stands still unless it is moved."""

    def __init__(self, state, key):
        self.now_s = 0.0
        self.database = Database(state / "agent.db")
        self.serving = Serving(self.clock)
        shelf = ReleaseClient(None, state / "releases", key, SqliteJournal(self.database))
        self.store = SqliteSlots(self.database)
        self.upgrade = Upgrade(shelf, self.serving, self.store, self.clock)
        self.database.set_fact("served_release", 1)
        self.upgrade.restore()
        self.trial = Trial(self.serving, self.upgrade, Guard(self.clock), SETTINGS, self.clock)

    def clock(self):
        return self.now_s

    def ask(self, times=1):
        for _ in range(times):
            self.now_s += 0.01
            self.serving.answer([0], seed=1)

    @property
    def adapted(self):
        return self.serving.served.adapted

    def tries(self, adapter):
        self.upgrade.adopt(self.serving.served.release, adapter)

    @property
    def on_trial(self):
        return next((trial.kind for trial in self.upgrade.trials()), None)


@pytest.fixture
def device(tmp_path, stand_in):
    stand_in.make_release(tmp_path / "releases" / "1")
    device = Device(tmp_path, stand_in.PUBLIC_KEY)
    yield device
    device.database.close()


def test_an_adapter_is_good_after_enough_finite_answers_and_not_before(device, stand_in):
    device.ask(5)  # answers of the base say nothing about it
    device.tries(stand_in.good_adapter())
    device.ask(2)
    device.trial.step()
    assert device.on_trial == SHARED
    device.ask(1)
    device.trial.step()
    assert (device.on_trial, device.adapted) == (None, True)


def test_where_nobody_asks_the_golden_set_decides_after_a_while(device, stand_in):
    device.tries(stand_in.good_adapter())
    device.now_s += 59
    device.trial.step()
    assert device.on_trial == SHARED
    device.now_s += 1
    device.trial.step()
    assert (device.on_trial, device.adapted) == (None, True)


def test_a_harmful_one_that_came_this_far_falls_at_the_golden_set(device, stand_in):
    device.tries(stand_in.bad_adapter())
    device.now_s += 60
    device.trial.step()
    assert (device.on_trial, device.adapted) == (None, False)
    assert "on trial, fidelity fell" in device.store.ban_on(digest(stand_in.bad_adapter()))


def test_one_that_answers_with_what_is_no_number_falls_at_once(device, stand_in):
    enormous = stand_in.zero_adapter() | {"tm.0.lora_B": np.full((16, 2), 3e38, np.float32)}
    device.tries(enormous)
    with np.errstate(all="ignore"):
        device.ask(1)
    device.trial.step()
    assert (device.on_trial, device.adapted) == (None, False)
    assert "not finite" in device.store.ban_on(digest(enormous))


def test_a_slow_one_falls_only_when_it_was_slow_several_times_in_a_row(device, stand_in, monkeypatch, caplog):
    pace = [Pace(2.0, 1.1)]
    monkeypatch.setattr(trial, "pace_of", lambda *_: pace[0])
    device.tries(stand_in.good_adapter())
    device.ask(3)
    for _ in range(PATIENCE - 1):
        device.trial.step()
    assert device.adapted
    device.trial.step()
    assert not device.adapted
    assert "2.00 times as long" in caplog.text
    assert device.store.bans() == []  # that may have been the device's fault: another round may bring it again


def test_without_anything_on_trial_nothing_is_done(device):
    device.ask(9)
    device.trial.step()
    assert device.on_trial is None


def test_a_new_candidate_begins_a_trial_of_its_own(device, stand_in):
    device.tries(stand_in.good_adapter())
    device.ask(2)
    device.tries(stand_in.zero_adapter())
    device.ask(2)
    device.trial.step()
    assert device.on_trial == SHARED


@pytest.fixture
def newer(device, tmp_path, stand_in):
    """A device with release 2 on trial."""
    stand_in.make_release(tmp_path / "releases" / "2", 2)
    device.store.store(RELEASE, "", Slots(good="1", trial="2", starts=1, newest=2), {})
    device.upgrade.restore()
    return device


def test_adapters_that_come_and_go_do_not_hold_up_the_trial_of_their_release(newer, stand_in):
    for turn in range(3):
        newer.now_s += 25
        newer.tries(scale(stand_in.good_adapter(), 1 - turn / 100))
        newer.trial.step()
    assert [trial.kind for trial in newer.upgrade.trials()] == [SHARED]
    assert newer.upgrade.standing()["release"]["good"] == "2"


def test_a_release_does_not_fall_for_what_was_learned_on_it(newer, stand_in):
    enormous = stand_in.zero_adapter() | {"tm.0.lora_B": np.full((16, 2), 3e38, np.float32)}
    newer.tries(enormous)
    with np.errstate(all="ignore"):
        newer.ask(1)
    for _ in range(3):
        newer.trial.step()
    newer.tries(stand_in.bad_adapter())
    newer.now_s += 60
    for _ in range(3):
        newer.trial.step()
    assert newer.upgrade.trials() == ()
    assert (newer.serving.served.release.version, newer.adapted) == (2, False)
    assert {ban["digest"] for ban in newer.store.bans()} == {digest(enormous), digest(stand_in.bad_adapter())}


def test_a_shared_adapter_does_not_fall_for_the_personal_one_on_top_of_it(device, stand_in):
    shared = scale(stand_in.good_adapter(), 0.9)
    device.tries(shared)
    device.upgrade.adopt_personal(device.serving.served.release, stand_in.bad_adapter(), digest(shared))
    device.now_s += 60
    device.trial.step()
    assert [trial.kind for trial in device.upgrade.trials()] == [SHARED]
    device.trial.step()
    assert (device.upgrade.trials(), device.adapted) == ((), True)


def test_one_that_is_only_held_falls_without_a_ban(device, stand_in, monkeypatch):
    monkeypatch.setattr(Guard, "check", lambda *_: Hold(None, ("KID went 0.150 from the base",)))
    device.tries(stand_in.good_adapter())
    device.now_s += 60
    for _ in range(PATIENCE):
        assert device.adapted
        device.trial.step()
    assert (device.adapted, device.store.bans()) == (False, [])


def test_a_trial_that_is_over_is_not_ended_again(device, stand_in):
    device.tries(stand_in.good_adapter())
    (trial,) = device.upgrade.trials()
    device.upgrade.pass_trial(trial)
    device.upgrade.end_trial(trial, "too late", ban=True)
    device.upgrade.pass_trial(trial)
    assert (device.adapted, device.store.bans()) == (True, [])
