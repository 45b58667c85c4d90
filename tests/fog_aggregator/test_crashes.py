"""kill -9 between any two steps, and inside any transaction: nothing is lost, nothing is counted twice."""

import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fog_aggregator.drivers.failpoint import VARIABLE
from fog_aggregator.plans import Terms
from fog_aggregator.site import Opened, turn
from learning_core.updates import ModelVersion

ROUNDS = 3
TERMS = Terms(1.0, 0.0, 0.5)
CHILD = Path(__file__).with_name("crash_child.py")


class Killed(BaseException):
    """The process ends here, as far as the fog can tell."""


def killer(at):
    """Ends the process at the calls numbered `at`, counted over all starts."""
    calls, names = count(), []

    def reached(name):
        names.append(name)
        if next(calls) in at:
            raise Killed

    return reached, names


def live_through(make_site, devices, state, reached, cloud, away=False):
    """Start the fog again each time it is killed, until its rounds are done; every Opened event on the way.

    With `away` the cloud is there for the release, is away while the rounds are run, and comes back in the end.
    """
    opened = []
    for start in range(20):
        site = None
        try:
            site = make_site(devices, state=state, terms=TERMS, reached=reached, seed=start, min_devices=4)
            cloud.away = away and site.journal.base() is not None
            while cloud.away and (site.journal.next_round() <= ROUNDS or site.journal.unsettled() is not None):
                opened.extend(event for event in turn(site.site) if isinstance(event, Opened))
            cloud.away = False
            site.exchange()
            while len(cloud.kept) < ROUNDS or site.journal.waiting() or site.journal.unsettled() is not None:
                opened.extend(event for event in turn(site.site) if isinstance(event, Opened))
            return site, opened
        except Killed:
            if site is not None:
                site.close()
    raise AssertionError("the fog never got through")


def check(site, opened, cloud, devices):
    assert sorted(cloud.kept) == [("fog-a", number) for number in range(1, ROUNDS + 1)]
    cohorts = {}
    for event in opened:  # a round that is opened again has the cohort it had
        assert cohorts.setdefault(event.plan.number, event.plan.cohort) == event.plan.cohort
    places = {site.nodes[label]: device.place for label, device in devices.items()}
    total = np.zeros(8)
    for number in range(1, ROUNDS + 1):
        expected = np.zeros(8)
        expected[[places[node] for node in cohorts[number]]] = 0.125 / 2  # four devices, each asked with chance 1/2
        np.testing.assert_array_equal(cloud.kept["fog-a", number].delta["head.lora_B"].ravel(), expected)
        total += expected
    np.testing.assert_array_equal(site.journal.base().shared["head.lora_B"].ravel(), total)
    assert site.journal.base().version == ModelVersion(1, ROUNDS)
    assert {history[0].rounds for history in site.journal.histories().values()} == {ROUNDS}
    assert len(site.journal.histories()) == 4
    assert all(set(device.trained) <= {1, 2, 3} for device in devices.values())


def steps_of_a_quiet_life(make_site, plain_device, cloud, away):
    reached, names = killer(())
    devices = {label: plain_device(place) for place, label in enumerate("abcd")}
    site, opened = live_through(make_site, devices, "quiet", reached, cloud, away)
    check(site, opened, cloud, devices)
    return names


@pytest.mark.parametrize("away", [False, True])
def test_a_fog_killed_at_any_single_step_loses_nothing_and_counts_nothing_twice(
    away, make_site, plain_device, cloud, tmp_path
):
    names = steps_of_a_quiet_life(make_site, plain_device, cloud, away)
    assert ("settle.uncommitted" in names) == away
    assert {"open.uncommitted", "round.asked", "charge.uncommitted", "close.uncommitted", "outbox.sent"} < set(names)
    for step in range(len(names)):
        restart(cloud, tmp_path)
        devices = {label: plain_device(place) for place, label in enumerate("abcd")}
        reached, _ = killer({step})

        site, opened = live_through(make_site, devices, f"killed-at-{step}", reached, cloud, away)

        check(site, opened, cloud, devices)
        site.close()


def restart(cloud, tmp_path):
    """Forget all, as a new cloud."""
    cloud.away = False
    cloud.kept.clear()
    cloud.publish(tmp_path / "published" / "1")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.sets(st.integers(0, 120), min_size=2, max_size=8), away=st.booleans())
def test_a_fog_killed_again_and_again_gets_through(kills, away, make_site, plain_device, cloud, tmp_path):
    restart(cloud, tmp_path)
    devices = {label: plain_device(place) for place, label in enumerate("abcd")}
    reached, _ = killer(kills)

    site, opened = live_through(make_site, devices, f"often-{len(list(tmp_path.iterdir()))}", reached, cloud, away)

    check(site, opened, cloud, devices)
    site.close()


@pytest.mark.parametrize(
    "step",
    [
        "release.mirrored",
        "round.opened",
        "round.asked:2",
        "charge.uncommitted",
        "round.charged:2",
        "round.noised",
        "round.closed",
        "outbox.sent",
        "shared.uncommitted:2",
    ],
)
def test_a_process_really_killed_there_goes_on_where_it_was(step, tmp_path, publish, release_key):
    command = [sys.executable, str(CHILD), str(tmp_path), str(publish(1)), release_key.hex(), str(ROUNDS)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}

    killed = subprocess.run(command, env={**environ, VARIABLE: step}, capture_output=True, timeout=60, check=False)
    finished = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["kept"] == [1, 2, 3]
    assert result["aggregates"] == [[0.125, 0.125]] * 3
    assert result["shared"] == [0.375, 0.375]
    assert result["charges"] == [3, 3]
