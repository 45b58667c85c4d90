import json

import numpy as np
import pytest
from stand_in_release import make_release
from typer.testing import CliRunner

from edge_agent import operations
from edge_agent.adapters import Worn
from edge_agent.asking import cli
from edge_agent.drivers.going_back import roll_back_without_agent
from edge_agent.drivers.release_client import ReleaseClient
from edge_agent.drivers.sqlite_journal import SqliteJournal
from edge_agent.drivers.sqlite_slots import SqliteSlots
from edge_agent.drivers.sqlite_store import Database
from edge_agent.serving import Serving
from edge_agent.slots import BY_A_PERSON, MAX_STARTS, PERSONAL, RELEASE, SHARED
from edge_agent.upgrade import Upgrade
from learning_core.errors import ConfigError, DewfallError, StateError, Tampered
from learning_core.params import digest, scale
from protos.state_folder import write_atomically


class NoFog:
    """Releases are put on the disk by hand here."""


class Killed(BaseException):
    """The process ended here."""


class Life:
    """One process's view of a device's state; the next one finds what this one left. Ends after `steps` effects."""

    def __init__(self, state, key, steps=None):
        self.state, self.left, self.done = state, steps, []
        self.database = Database(state / "agent.db")
        self.store = SqliteSlots(self.database)
        self.shelf = ReleaseClient(NoFog(), state / "releases", key, SqliteJournal(self.database))
        self.serving = Serving()
        self.upgrade = Upgrade(self.shelf, self.serving, self.store)
        for owner, names in (
            (self.store, ("store", "ban", "drop")),
            (self.shelf, ("keep_adapter", "keep_only", "prune")),
            (self.serving, ("serve",)),
        ):
            for name in names:
                setattr(owner, name, self._counted(getattr(owner, name), name))

    def _counted(self, effect, name):
        def do(*arguments):
            if self.left is not None and len(self.done) >= self.left:
                raise Killed
            self.done.append(name)
            return effect(*arguments)

        return do

    def installs(self, version):
        """As if it had just been fetched and tried."""
        folder = self.state / "releases" / str(version)
        if not folder.exists():
            make_release(folder, version)
        release = self.shelf.load(version)
        self.shelf.install = lambda *_: release
        self.upgrade.announce(version, release.digest)
        self.upgrade.step()

    def passes(self):
        self.upgrade.pass_trial(self.upgrade.trials()[0])

    def draw(self):
        """What it answers, for comparing what is served."""
        return self.serving.answer([0, 7], seed=1)

    @property
    def release(self):
        return self.serving.served.release

    def close(self):
        self.database.close()


@pytest.fixture
def device(tmp_path, stand_in):
    """Start a life on the same state; the one before ends."""
    state = tmp_path / "state"
    state.mkdir()
    lives = []

    def live(steps=None):
        while lives:
            lives.pop().close()
        lives.append(Life(state, stand_in.PUBLIC_KEY, steps))
        return lives[-1]

    live.state = state
    live.end = lambda: lives.pop().close()
    yield live
    for life in lives:
        life.close()


def adapters(stand_in):
    good = stand_in.good_adapter()
    return [scale(good, factor) for factor in (1.0, 0.9, 0.8)]


def test_a_shared_adapter_is_on_trial_then_good_and_a_person_goes_back_to_the_one_before(device, stand_in):
    life, (first, second, _) = device(), adapters(stand_in)
    life.installs(1)
    base = life.draw()
    life.upgrade.adopt(life.release, first)
    with_first = life.draw()
    assert life.upgrade.trials()[0].kind == SHARED
    life.passes()
    assert life.upgrade.trials() == ()
    life.upgrade.adopt(life.release, second)
    life.passes()
    assert life.upgrade.roll_back("it looks wrong") == "release 1 is served now, with its shared adapter"
    assert (life.draw() == with_first).all()
    assert life.store.ban_on(digest(second)) == "it looks wrong"
    assert life.upgrade.roll_back("this too") == "release 1 is served now, without an adapter"
    assert (life.draw() == base).all()
    with pytest.raises(DewfallError, match="with --release"):
        life.upgrade.roll_back("more")


def test_a_banned_adapter_is_never_served_again_unless_a_person_lifts_the_ban(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    life.upgrade.roll_back("it looks wrong")
    life.upgrade.adopt(life.release, first)
    assert not life.serving.served.adapted
    assert [ban["digest"] for ban in life.upgrade.standing()["bans"]] == [digest(first)]
    life = device()
    life.upgrade.restore()
    life.upgrade.adopt(life.release, first)
    assert not life.serving.served.adapted
    assert life.upgrade.lift(digest(first))
    assert not life.upgrade.lift(digest(first))
    life.upgrade.adopt(life.release, first)
    assert life.serving.served.adapted


def test_a_candidate_that_was_refused_is_banned_before_it_was_ever_served(device, stand_in):
    life, bad = device(), stand_in.bad_adapter()
    life.installs(1)
    life.upgrade.refuse(bad, "fidelity fell")
    life.upgrade.adopt(life.release, bad)
    assert not life.serving.served.adapted


def test_a_release_goes_back_with_what_was_learned_on_it_and_is_refused_until_a_newer_one_comes(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    life.passes()
    drawn = life.draw()
    life.installs(2)
    gone = life.release.digest
    assert life.upgrade.trials()[0].kind == RELEASE
    assert life.upgrade.roll_back("a person", RELEASE) == "release 1 is served now, with its shared adapter"
    assert (life.draw() == drawn).all()
    assert "a person" in life.upgrade.announce(2, gone)
    assert "versions only grow" in device().upgrade.announce(1, "1" * 64)
    life = device()
    life.upgrade.restore()
    life.installs(3)
    assert life.release.version == 3


def test_without_an_earlier_release_that_is_said(device):
    life = device()
    life.installs(1)
    with pytest.raises(DewfallError, match="no earlier release"):
        life.upgrade.roll_back("a person", RELEASE)


def test_an_agent_that_does_not_stay_up_with_something_new_goes_back_from_it(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    for _ in range(MAX_STARTS):
        assert life.serving.served.adapted
        life = device()
        life.upgrade.restore()
    assert not life.serving.served.adapted
    assert "did not stay up" in life.store.ban_on(digest(first))


def test_an_agent_that_is_stopped_in_order_again_and_again_goes_on_with_its_trial(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    life.installs(2)
    life.upgrade.adopt(life.release, first)
    for _ in range(MAX_STARTS + 2):
        life.upgrade.stopped()
        life = device()
        life.upgrade.restore()
    assert [trial.kind for trial in life.upgrade.trials()] == [SHARED, RELEASE]
    device().upgrade.stopped()  # with nothing served


def test_an_adapter_whose_file_was_changed_is_left_for_the_one_before(device, stand_in):
    life, (first, second, _) = device(), adapters(stand_in)
    life.installs(1)
    for adapter in (first, second):
        life.upgrade.adopt(life.release, adapter)
        life.passes()
    (path,) = (device.state / "releases").glob(f"*{digest(second)}.shared")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    write_atomically(path, bytes(data))
    life = device()
    life.upgrade.restore()
    worn, _ = life.upgrade.worn(life.release)
    assert digest(worn.shared) == digest(first)


def test_a_personal_adapter_is_served_only_on_the_shared_one_it_was_proven_on(device, stand_in):
    life, (first, second, small) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    life.upgrade.adopt_personal(life.release, scale(small, 0.1), digest(first))
    assert life.upgrade.trials()[0].kind == PERSONAL
    together = life.draw()
    np.testing.assert_allclose(together[1].ravel(), 1.08 * stand_in.centres()[7], rtol=1e-5)
    life.upgrade.adopt(life.release, second)
    worn, personal = life.upgrade.worn(life.release)
    assert worn.personal is None
    assert digest(personal) == digest(scale(small, 0.1))
    assert life.upgrade.trials()[0].kind == SHARED
    life.upgrade.adopt_personal(life.release, personal, digest(second))
    np.testing.assert_allclose(life.draw()[1].ravel(), 0.98 * stand_in.centres()[7], rtol=1e-5)
    assert not life.upgrade.adopt_personal(life.release, scale(first, 0.2), digest(first))  # that was exchanged
    assert digest(life.upgrade.worn(life.release)[1]) == digest(personal)
    life.installs(2)
    life.upgrade.adopt_personal(life.release, personal, "")
    assert life.upgrade.drop_personal() == "release 2 is served now, without an adapter"
    life.upgrade.roll_back("a person", RELEASE)
    assert life.upgrade.worn(life.release)[1] is None
    assert not list((device.state / "releases").glob("*.personal"))


def test_a_release_is_verified_again_and_one_that_was_changed_goes_on_being_served_as_loaded(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    before, drawn = life.release, life.draw()
    life.upgrade.reverify()
    assert life.release is not before
    assert (life.draw() == drawn).all()
    path = device.state / "releases" / "1" / "student.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(Tampered):
        life.upgrade.reverify()
    assert (life.draw() == drawn).all()


def a_day(life, stand_in):
    """Every transition there is, one after another."""
    first, second, third = adapters(stand_in)
    life.upgrade.restore()
    if life.serving.served is None:
        life.installs(1)
    for adapter in (first, second):
        life.upgrade.adopt(life.release, adapter)
        for trial in life.upgrade.trials():
            life.upgrade.pass_trial(trial)
    life.upgrade.adopt_personal(life.release, scale(third, 0.1), life.upgrade.named(life.release)[0])
    life.upgrade.adopt(life.release, third)
    life.upgrade.roll_back("a fault")
    life.upgrade.drop_personal()
    if life.release.version == 1:
        life.installs(2)
    life.upgrade.adopt(life.release, first)
    life.upgrade.roll_back("a fault")
    if life.upgrade.trials():
        life.upgrade.roll_back("a fault", RELEASE)


def test_killed_before_any_effect_the_next_start_serves_something_whole_that_is_not_banned(device, stand_in):
    whole = device()
    a_day(whole, stand_in)
    effects = list(whole.done)
    assert len(effects) >= 30
    for steps in range(len(effects)):
        device.end()
        for path in device.state.glob("agent.*"):
            path.unlink()
        for path in (device.state / "releases").glob("*-*"):
            path.unlink()
        life = device(steps)
        with pytest.raises(Killed):
            a_day(life, stand_in)
        life = device()
        life.upgrade.restore()
        if life.serving.served is None:
            assert "serve" not in effects[:steps]
            continue
        slots = life.upgrade.standing()
        worn, _ = life.upgrade.worn(life.release)
        assert slots["release"]["trial"] or slots["release"]["good"] == str(life.release.version)
        assert life.serving.served.adapted == (worn != Worn())
        for adapter in (worn.shared, worn.personal):
            assert adapter is None or life.store.ban_on(digest(adapter)) is None
        assert life.store.ban_on(life.release.digest) is None
        assert np.isfinite(life.draw()).all()


def test_a_person_goes_back_without_a_running_agent(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    life.upgrade.adopt_personal(life.release, first, digest(first))
    life.installs(2)
    device.end()
    assert roll_back_without_agent(None, device.state) == "release 1 will be served"
    assert roll_back_without_agent(PERSONAL, device.state) == "the personal adapter is gone, of every release"
    assert roll_back_without_agent(None, device.state) == "release 1 will be served with no shared adapter"
    with pytest.raises(DewfallError, match="no earlier release"):
        roll_back_without_agent(RELEASE, device.state)
    life = device()
    life.upgrade.restore()
    assert (life.release.version, life.serving.served.adapted) == (1, False)
    assert len(life.upgrade.standing()["bans"]) == 2
    json.dumps(life.upgrade.standing())


def test_without_an_agent_too_a_personal_adapter_that_is_not_served_is_not_gone_back_from(device, stand_in):
    life, (first, second, _) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt_personal(life.release, first, "")
    life.upgrade.adopt(life.release, second)
    device.end()
    assert roll_back_without_agent(None, device.state) == "release 1 will be served with no shared adapter"
    assert [ban["digest"] for ban in device().store.bans()] == [digest(second)]


def test_what_was_stored_is_served_though_its_second_copy_could_not_be_written(device, stand_in, monkeypatch):
    life, (first, second, _) = device(), adapters(stand_in)
    life.installs(1)
    for adapter in (first, second):
        life.upgrade.adopt(life.release, adapter)
        life.passes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(life.database._copy, "append", full)
    with pytest.raises(StateError, match="cannot be used"):
        life.upgrade.roll_back("it looks wrong")
    monkeypatch.undo()
    assert digest(life.upgrade.worn(life.release)[0].shared) == digest(first)
    np.testing.assert_allclose(life.draw()[1].ravel(), stand_in.centres()[7], rtol=1e-5)
    monkeypatch.setattr(life.database._copy, "append", full)
    with pytest.raises(StateError, match="cannot be used"):
        life.installs(2)
    assert life.release.version == 2


def test_what_somebody_looked_at_is_gone_back_from_and_nothing_else(device, stand_in):
    life, (first, second, _) = device(), adapters(stand_in)
    life.installs(1)
    life.upgrade.adopt(life.release, first)
    seen = life.serving.served.identity
    life.upgrade.reverify()
    assert life.serving.served.identity == seen
    life.upgrade.adopt(life.release, second)
    with pytest.raises(DewfallError, match="exchanged meanwhile"):
        life.upgrade.roll_back("healing found: model", None, seen)
    assert (life.serving.served.adapted, life.store.bans()) == (True, [])
    life.upgrade.roll_back("healing found: model", None, life.serving.served.identity)
    assert [ban["digest"] for ban in life.store.bans()] == [digest(second)]


def test_what_was_learned_while_its_release_was_verified_again_is_served(device, stand_in):
    life, (first, *_) = device(), adapters(stand_in)
    life.installs(1)
    before = life.release
    life.upgrade.reverify()
    assert life.upgrade.adopt(before, first)
    assert life.serving.served.adapted
    assert life.release is not before


def test_a_folder_without_an_agents_state_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"agent\.db"):
        roll_back_without_agent(None, tmp_path)


def test_the_version_that_an_earlier_agent_noted_is_served(device):
    life = device()
    make_release(device.state / "releases" / "1")
    life.database.set_fact("served_release", 1)
    life.upgrade.restore()
    assert life.release.version == 1


class Asked:
    """Notes what the operations ask for."""

    def __init__(self):
        self.heard = []

    def roll_back(self, reason, kind):
        self.heard.append((reason, kind))
        return "release 1 is served now, without an adapter"

    def drop_personal(self):
        self.heard.append("personal")
        return "release 1 is served now, without an adapter"

    def lift(self, digest):
        return digest == "d" * 64


def test_the_socket_takes_what_a_person_may_ask_and_nothing_else():
    asked = Asked()
    doors = operations.going_back(asked.roll_back, asked.drop_personal, asked.lift)
    assert doors["rollback"]({})[0] == {"told": "release 1 is served now, without an adapter"}
    doors["rollback"]({"kind": RELEASE})
    doors["rollback"]({"kind": PERSONAL})
    assert asked.heard == [(BY_A_PERSON, None), (BY_A_PERSON, RELEASE), "personal"]
    assert doors["lift"]({"digest": "d" * 64})[0] == {"told": "it may be installed again"}
    for odd in ("shared", 3, ["release"], {}):
        with pytest.raises(DewfallError, match="go back from"):
            doors["rollback"]({"kind": odd})
    for odd in (None, 3, "e" * 64):
        with pytest.raises(DewfallError, match="nothing with this digest"):
            doors["lift"]({"digest": odd})


def test_the_command_goes_back_on_the_state_of_an_agent_that_does_not_run_and_asks_before(device, stand_in):
    life = device()
    life.installs(1)
    life.upgrade.adopt(life.release, stand_in.good_adapter())
    device.end()
    command = ["rollback", "--state", str(device.state)]
    refused = CliRunner().invoke(cli, command, input="n\n")
    assert refused.exit_code == 1
    done = CliRunner().invoke(cli, [*command, "--yes", "--json"])
    assert json.loads(done.output) == {"told": "release 1 will be served with no shared adapter"}
    both = CliRunner().invoke(cli, [*command, "--release", "--personal"])
    assert "give one of" in str(both.exception)


def test_verifying_again_is_no_start(device, stand_in):
    life = device()
    life.installs(1)
    life.upgrade.adopt(life.release, stand_in.good_adapter())
    for _ in range(MAX_STARTS + 1):
        life.upgrade.reverify()
    assert life.serving.served.adapted
