import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from simulations.bench.continual import drift
from simulations.bench.continual.drift_streams import delay, drifting, stationary

SMALL = {
    "stationary": {"runs": 1, "length": 400},
    "drifting": {"repeats": 2, "earliest": 200, "latest": 220, "after": 300},
    "page_hinkley": [22.5],
    "adwin": [0.05],
    "embeddings": {"runs": 1, "length": 250, "repeats": 1, "reference": 100, "window": 50, "level": 0.004},
}


@pytest.fixture
def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(drift.SETTING, name, value)


def tried(false_alarms, items):
    return {"alarms": {"still": false_alarms}, "delays": {"moved": items}}


def test_a_drift_begins_where_the_stream_says_and_the_streams_of_a_seed_are_the_same_each_time():
    streams, changes = drifting(3, repeats=40, earliest=500, latest=600, after=500)
    before = np.concatenate([run[:at] for run, at in zip(streams["errors .2 to .6"], changes, strict=True)])
    after = np.concatenate([run[at:] for run, at in zip(streams["errors .2 to .6"], changes, strict=True)])
    assert (before.mean(), after.mean()) == (pytest.approx(0.2, abs=0.02), pytest.approx(0.6, abs=0.02))
    again, _ = drifting(3, repeats=40, earliest=500, latest=600, after=500)
    assert all(np.array_equal(runs, again[kind]) for kind, runs in streams.items())


def test_streams_that_do_not_drift_keep_their_rate():
    still = stationary(0, runs=4, length=5000)
    halves = [{kind: float(part.mean()) for kind, part in zip(still, parts, strict=True)} for parts in _halves(still)]
    for half in halves:
        assert half == {
            "errors .2": pytest.approx(0.2, abs=0.02),
            "errors .05": pytest.approx(0.05, abs=0.01),
            "normal": pytest.approx(0, abs=0.05),
        }


def _halves(streams):
    return zip(*(np.split(runs, 2, axis=1) for runs in streams.values()), strict=True)


def test_a_delay_counts_from_the_drift_to_the_first_alarm_after_it():
    stream = np.arange(30.0)
    assert delay(lambda value: value in {4, 13, 20}, stream, change=10) == 4
    assert delay(lambda value: value == 4, stream, change=10) == 20  # never seen: all that was watched


def test_the_quickest_of_the_quiet_settings_is_taken(small):
    """400 items: one false alarm is 25 in 10,000."""
    seeds = [{"loud": tried(1, [5, 5]), "slow": tried(0, [90, 90]), "quick": tried(0, [40, 40])}]
    assert drift.calibrated(seeds) == "quick"
    with pytest.raises(ValueError, match="widen the grid"):
        drift.calibrated([{"loud": tried(1, [5, 5])}])


def test_the_ratio_is_the_geometric_mean_over_kinds_of_the_ratios_of_medians():
    ours = [{"a": [10, 10, 99], "b": [8, 8, 8]}] * 3
    theirs = [{"a": [20, 20, 20], "b": [4, 4, 4]}] * 3
    assert drift.ratio(ours, theirs) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_a_peer_that_is_not_installed_is_left_out():
    assert drift.run_peers(Path(shutil.which("false")), [0]) is None


def test_the_part_runs_in_the_small_and_claims_only_beside_its_peer(small):
    results = [json.loads(json.dumps(drift.run_seed(seed, None))) for seed in range(2)]
    alone = drift.summarise(results, None)
    assert alone.claims == []
    assert alone.figures["median_delays"][drift.OURS]["errors .2 to .6"] < 60
    slower = {"delta 1": {"alarms": results[0]["ADWIN"]["delta 0.05"]["alarms"], "delays": {}}}
    slower["delta 1"]["delays"] = {kind: [300, 300] for kind in results[0][drift.OURS]["threshold 22.5"]["delays"]}
    (claim,) = drift.summarise(results, {"seeds": [{drift.PEER: slower}] * 2}).claims
    assert (claim.id, claim.verdict) == ("drift.delay_ratio_to_river", "holds")
    assert claim.low <= claim.value <= claim.high
