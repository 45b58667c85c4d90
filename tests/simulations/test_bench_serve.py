import math
from dataclasses import replace

import numpy as np
import pytest

from edge_agent.drivers.overhead import Pair, overhead
from edge_agent.serving import Serving
from simulations.bench import serve_requests
from simulations.bench.serve import (
    CLAIMED,
    QUICK,
    Measured,
    Plan,
    claims,
    figures_of,
    overhead_interval,
    slowdown,
    slowdown_interval,
)
from simulations.bench.serve_idle import Footprint
from simulations.bench.serve_language import Size, Turns, time_sizes
from simulations.bench.serve_requests import Swaps, ask_during_swaps, time_pairs
from simulations.bench.serve_training import Blocks
from simulations.bench.serve_world import make_release
from simulations.report import document

FOUND = Measured(
    pairs=[Pair(2.0, 2.1, 2.0, 2.1, "usual")] * 60,
    swaps=Swaps(1000, 0, 0, (0.1, 0.2), (0.1, 0.1)),
    blocks=Blocks(((1.0, 2.0), (1.0, 2.0)), ((1.0, 2.5), (1.0, 2.5)), "SCHED_IDLE", 0.9),
    footprint=Footprint((120.0, 121.0), (0.004, 0.006), 4),
    language=[Turns(CLAIMED, (9.0, 9.0), (4.0, 4.0)), Turns(Size(64, 8), (1.0, 1.0), (1.0, 1.0))],
)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("serve"))[0]


def verdicts(found):
    return {claim.id: claim.verdict for claim in claims(found)}


def test_every_claim_is_computed_from_what_was_measured():
    values = {claim.id: claim.value for claim in claims(FOUND)}
    assert values["serve.overhead_p50"] == pytest.approx(0.05)
    assert values["serve.p99_while_training"] == pytest.approx(1.25, abs=0.01)
    assert values["serve.failed_requests"] == 0
    assert values["serve.swap_ms"] == 0.2
    assert values["serve.agent_rss_mb"] == 121.0
    assert values["serve.agent_cpu_share"] == pytest.approx(0.005)
    assert values["serve.int8_speedup"] == 2.25
    assert set(verdicts(FOUND).values()) == {"holds"}


def test_one_wrong_answer_is_one_too_many():
    found = replace(FOUND, swaps=replace(FOUND.swaps, wrong=1))
    assert verdicts(found)["serve.failed_requests"] == "falls"


def test_a_swap_that_another_program_held_up_is_inconclusive():
    found = replace(FOUND, swaps=replace(FOUND.swaps, held_ms=(0.1, 20.0)))
    assert verdicts(found)["serve.swap_ms"] == "inconclusive"
    found = replace(FOUND, swaps=replace(FOUND.swaps, held_ms=(0.1, 20.0), held_core_ms=(0.1, 19.0)))
    assert verdicts(found)["serve.swap_ms"] == "falls"


def test_a_learner_that_hardly_got_a_core_shows_nothing():
    found = replace(FOUND, blocks=replace(FOUND.blocks, learner_cores=0.1))
    assert verdicts(found)["serve.p99_while_training"] == "inconclusive"


def test_intervals_contain_their_figure_and_close_when_there_is_no_noise():
    rng = np.random.default_rng(0)
    pairs = [Pair(1.0, float(ratio), 1.0, 1.0, "usual") for ratio in rng.uniform(0.9, 1.3, 300)]
    low, high = overhead_interval(pairs)
    assert low < overhead(pairs) < high
    assert overhead_interval(FOUND.pairs) == pytest.approx((0.05, 0.05))
    low, high = slowdown_interval(FOUND.blocks)
    assert low == pytest.approx(slowdown(FOUND.blocks)) == pytest.approx(high)


def test_figures_can_be_written_down():
    assert math.isfinite(figures_of(FOUND)["overhead_in_core_time"])
    assert document(claims(FOUND), figures_of(FOUND), {}, [0])["figures"]["language"][0]["speedup"] == 2.25


def test_a_plan_measures_the_size_it_claims_something_of():
    for plan in (Plan(), QUICK):
        assert CLAIMED.width in plan.widths
        assert CLAIMED.length in plan.lengths


def test_no_request_fails_while_adapters_change(release):
    found = ask_during_swaps(release, requests=200, swaps=12)
    assert (found.requests, found.failed, found.wrong, len(found.held_ms)) == (200, 0, 0, 12)


def test_an_answer_of_a_version_that_is_not_served_is_noticed(release, monkeypatch):
    class Stuck(Serving):
        def serve(self, served):
            if self.served is None:
                super().serve(served)

    monkeypatch.setattr(serve_requests, "Serving", Stuck)
    found = ask_during_swaps(release, requests=60, swaps=4)
    assert found.wrong > 20
    assert found.failed == 0


def test_pairs_are_drawn_by_the_usual_variant(release):
    pairs = time_pairs(release, 4)
    assert [pair.variant for pair in pairs] == ["usual"] * 4
    assert all(pair.agent_core_ms > 0 for pair in pairs)


def test_both_language_models_are_timed_in_turns():
    (turns,) = time_sizes((64,), (16,), 3, lambda _: None)
    assert len(turns.float_ms) == len(turns.int8_ms) == len(turns.ratios) == 3
