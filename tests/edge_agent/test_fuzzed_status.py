"""Whatever is asked of an agent, and whatever an agent of another version tells: an answer, or one sentence."""

import io
import json
from copy import deepcopy

import crash_life
import crash_world
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from stand_in_release import manifest_digest

from edge_agent import app
from edge_agent.live_view import view_of
from edge_agent.status import decision_in_words, incident_in_words, status_in_words
from learning_core.errors import DewfallError

trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
fields = (
    "conditions",
    "condition",
    "seed",
    "count",
    "sample",
    "class",
    "all",
    "kind",
    "digest",
    "observations",
    "needs",
)
quiet = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    published, patch = tmp_path_factory.mktemp("published"), pytest.MonkeyPatch()
    crash_world.publish(published)
    world = crash_world.World(tmp_path_factory.mktemp("world"), published)
    crash_world.stand_in(world, patch.setattr)
    agent = app.Agent(crash_world.settings_of(world))
    agent._upgrade.announce(1, manifest_digest(published / "1"))
    agent._upgrade.step()
    crash_life.pass_trials(agent)
    yield agent
    agent.close()
    patch.undo()


@quiet
@given(data=st.data(), header=st.dictionaries(st.sampled_from(fields) | st.text(max_size=6), trees, max_size=4))
def test_whatever_a_program_asks_it_gets_json_or_a_sentence(agent, data, header):
    asked = agent._operations()
    operation = data.draw(st.sampled_from(sorted(asked.keys() - {"overhead"})))
    try:
        answer, payload = asked[operation](header)
    except DewfallError as error:
        refused = str(error)
    else:
        refused = json.dumps(answer) + str(len(payload))
    assert "\n" not in refused


def places_of(tree, path=()):
    yield path
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places_of(tree[key], (*path, key))


def changed(tree, path, value):
    """The tree with a value in another's place; None takes it away."""
    tree = deepcopy(tree)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


@quiet
@given(data=st.data(), value=trees)
def test_the_status_of_an_agent_of_another_version_is_shown_or_refused_in_a_sentence(agent, data, value):
    tree = json.loads(json.dumps(agent.status()))
    odd = changed(tree, data.draw(st.sampled_from([path for path in places_of(tree) if path])), value)
    for show in (status_in_words, shown):
        try:
            show(odd)
        except DewfallError as error:
            refused = str(error)
            assert "give both the same" in refused


def shown(tree):
    Console(file=io.StringIO(), width=100).print(view_of(tree))


@quiet
@given(trees)
def test_decisions_and_incidents_of_another_version_are_shown_or_refused_in_a_sentence(tree):
    for show in (decision_in_words, incident_in_words):
        try:
            assert isinstance(show(tree), str)
        except DewfallError as error:
            refused = str(error)
            assert "give both the same" in refused
