import datetime
import json
from dataclasses import replace

import numpy as np
import pytest
from paper import Paper

from edge_agent.appraisal import FACT, Appraiser, appraise
from edge_agent.drivers.onnx_engine import load_release
from edge_agent.operations import operations
from edge_agent.purse import Purse
from edge_agent.router import Measured, Needs
from edge_agent.serving import NO_FOG, RECENT, Serving, Unmet, served_with
from edge_agent.status import describe_variants, variant_in_words
from learning_core.errors import DewfallError, Malformed
from learning_core.federation.lora_algebra import serving_inputs
from protos.release import Variant, usual, verify_release

WAYS = (
    usual(10, 1.0),
    Variant("few_step", "student.onnx", 4, 1.0),
    Variant("strong", "student.onnx", 4, 1.5),
    Variant("fog_teacher", "fog:teacher", 10, 1.0),
)


@pytest.fixture(scope="module")
def ways(tmp_path_factory, stand_in):
    """A release with several variants, loaded."""
    folder = tmp_path_factory.mktemp("ways") / "1"
    stand_in.make_release(folder, variants=WAYS)
    return load_release(folder, verify_release(folder, stand_in.PUBLIC_KEY), stand_in.manifest_digest(folder))


@pytest.fixture
def serving(ways):
    serving = Serving()
    serving.serve(served_with(ways, None))
    return serving


def inputs_of(release, stand_in, adapter):
    return serving_inputs(release.start, adapter, stand_in.CONDITIONS, stand_in.KNOWN)


def known(serving, **qualities):
    """Tell it what its variants are worth; each costs as many joules as it takes steps."""
    rows = [Measured(each, qualities[each.name], each.steps, each.steps) for each in WAYS if each.name in qualities]
    serving.measured(serving.served, rows)


def test_before_anything_is_measured_the_usual_one_answers_and_a_promise_is_not_given(serving):
    assert serving.draw([1], 1).variant == "usual"
    with pytest.raises(Unmet, match="no variant has been measured yet"):
        serving.answer([1], 1, Needs(max_latency_ms=100.0))


def test_the_cheapest_good_one_answers_and_is_counted(serving):
    known(serving, usual=1.0, few_step=0.99, strong=0.5)
    assert serving.draw([1], 1).variant == "few_step"
    serving.answer([1, 2], 1, Needs(min_quality=0.995))
    assert serving.answers() == {"few_step": 1, "usual": 1}
    assert serving.latency().count == 2


def test_heat_is_asked_at_every_request(ways):
    room = [1.0]
    serving = Serving(headroom=lambda: room[0], floor=0.4)
    serving.serve(served_with(ways, None))
    rows = [Measured(WAYS[0], 1.0, 3.0, 2.0), Measured(WAYS[2], 0.5, 1.0, 1.0)]
    serving.measured(serving.served, rows)
    assert serving.draw([1], 1).variant == "usual"
    room[0] = 0.0
    assert serving.draw([1], 1).variant == "strong"


def test_only_preferred_ones_answer_until_that_is_lifted(serving):
    known(serving, usual=1.0, few_step=1.0, strong=0.5)
    serving.prefer(frozenset({"strong"}))
    assert serving.draw([1], 1).variant == "strong"
    serving.prefer(frozenset({"unheard_of"}))
    assert serving.draw([1], 1).variant == "few_step"
    serving.prefer(None)
    assert serving.draw([1], 1).variant == "few_step"


def test_a_variant_that_a_fog_answers_is_refused_not_crashed_into(serving):
    serving.prefer(frozenset({"fog_teacher"}))
    with pytest.raises(Unmet, match="none offers it now"):
        serving.answer([1], 1)
    assert [each.absent for each in serving.table()] == ["", "", "", NO_FOG]


def test_live_settings_can_be_changed_and_put_back(serving):
    bent = tuple(replace(each, steps=2) for each in serving.served.variants)
    serving.serve(replace(serving.served, variants=bent))
    assert serving.served.variants[0].steps == 2
    serving.restore_variants()
    assert serving.served.variants[0].steps == 10


def test_the_latest_answers_are_kept_as_they_were_handed_out(serving):
    for seed in range(RECENT + 6):
        answer = serving.answer([seed % 5], seed)
    serving.answer([1, 2], 0)  # of several: not kept
    recent = serving.recent()
    assert len(recent) == RECENT
    last = recent[-1]
    assert last.samples is answer
    assert (last.seed, last.conditions, last.variant) == (RECENT + 5, ((RECENT + 5) % 5,), "usual")
    assert last.took_ms > 0


def test_another_adapter_leaves_only_the_usual_one_known(ways, serving, stand_in):
    known(serving, usual=1.0, few_step=1.0)
    serving.serve(replace(serving.served))
    assert serving.draw([1], 1).variant == "few_step"
    serving.serve(served_with(ways, inputs_of(ways, stand_in, stand_in.good_adapter())))
    assert serving.draw([1], 1).variant == "usual"


def test_an_adapter_is_put_on_every_graph_or_on_none(ways, stand_in):
    inputs = inputs_of(ways, stand_in, stand_in.good_adapter())
    served = served_with(ways, inputs)
    assert served.adapted
    assert served.engines.keys() == ways.engines.keys()
    assert served.adapter == served_with(ways, dict(inputs)).adapter != ""
    with pytest.raises(Malformed):
        served_with(ways, {"label_delta": inputs["label_delta"]})


def test_answers_are_paid_for_and_a_spent_day_is_refused_with_the_reason(ways):
    day = Paper()
    purse = Purse(day, 10.0, 1.0, lambda: datetime.date(2026, 1, 5))
    core_s = iter(range(100))
    serving = Serving(purse=purse, watts=6.0, core_clock=lambda: float(next(core_s)))
    serving.serve(served_with(ways, None))
    serving.answer([1], 1)  # one second of one core
    assert purse.left() == 4.0
    known(serving, usual=1.0, few_step=1.0)  # four joules each for the cheaper one
    assert serving.draw([1], 1).variant == "few_step"
    with pytest.raises(Unmet, match="max_joules_per_day"):
        serving.answer([1], 1)


def test_an_exact_flow_is_worth_all_in_any_number_of_steps_and_too_much_guidance_less(ways):
    clock, core = iter(np.arange(0, 1e4, 0.5)), iter(np.arange(0, 1e4, 0.25))
    found = {
        each.variant.name: each
        for each in appraise(served_with(ways, None), 6.0, lambda: next(clock), lambda: next(core))
    }
    assert found.keys() == {"usual", "few_step", "strong"}
    assert found["usual"].quality == pytest.approx(1.0, abs=1e-4)
    assert found["few_step"].quality == pytest.approx(1.0, abs=1e-4)
    assert found["strong"].quality < 0.9
    assert found["usual"].latency_ms == 500.0  # one tick of this clock
    assert found["usual"].joules == 6.0 * 0.25


def test_what_an_adapter_taught_counts_and_what_nobody_knows_does_not(ways, stand_in):
    adapted = served_with(ways, inputs_of(ways, stand_in, stand_in.good_adapter()))
    found = {each.variant.name: each.quality for each in appraise(adapted, 6.0, Tick(), Tick())}
    assert found["few_step"] == pytest.approx(1.0, abs=1e-4)
    zero = served_with(ways, inputs_of(ways, stand_in, stand_in.zero_adapter()))
    found = {each.variant.name: each.quality for each in appraise(zero, 6.0, Tick(), Tick())}
    assert found["few_step"] == pytest.approx(1.0, abs=1e-4)


def test_what_is_served_is_appraised_once_also_over_a_restart(ways, serving, stand_in):
    paper = Paper()
    Appraiser(serving, paper, 6.0, Tick(), Tick()).step()
    first = serving.table()
    assert all(each.is_known for each in first[:3])
    again = Serving()
    again.serve(served_with(ways, None))
    appraiser = Appraiser(again, paper, 6.0, broken, broken)
    appraiser.step()
    appraiser.step()
    assert again.table() == first
    paper.set_fact(FACT, {"release": "another", "adapter": "", "variants": []})
    with pytest.raises(AssertionError, match="measured again"):
        Appraiser(again, paper, 6.0, broken, broken).step()


def test_another_adapter_waits_until_appraisals_are_a_fiftieth_of_a_core(ways, serving, stand_in):
    clock, core = Tick(0.0), Tick(1.0)  # an appraisal takes some core seconds and no time
    appraiser = Appraiser(serving, Paper(), 6.0, clock, core)
    appraiser.step()
    serving.serve(served_with(ways, inputs_of(ways, stand_in, stand_in.good_adapter())))
    appraiser.step()
    assert not serving.table()[1].is_known
    clock.now_s += 1e5
    appraiser.step()
    assert serving.table()[1].is_known


class Tick:
    """A clock that goes on by a step whenever it is read."""

    def __init__(self, step_s=0.001):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


def broken():
    raise AssertionError("measured again")


def test_a_caller_may_say_what_it_needs_and_hears_who_answered(serving):
    known(serving, usual=1.0, few_step=0.9)
    infer = operations(serving, dict, print, dict, max_count=4)["infer"]
    told, payload = infer({"conditions": [1, 2], "seed": 3, "min_quality": 0.85})
    assert (told["variant"], told["shape"], len(payload)) == ("few_step", [2, 1, 4, 4], 2 * 16 * 4)
    assert infer({"conditions": [1], "seed": 3, "min_quality": 0.95})[0]["variant"] == "usual"
    with pytest.raises(Unmet, match="a sample: 'few_step' takes 4 ms"):
        infer({"conditions": [1, 2], "min_quality": 0.85, "max_ms": 5})


def test_the_table_is_told_with_null_for_what_is_not_known(serving):
    known(serving, usual=1.0)
    serving.answer([1], 1)
    told = json.loads(json.dumps(describe_variants(serving.table(), serving.answers()), allow_nan=False))
    assert [each["quality"] for each in told] == [1.0, None, None, None]
    assert [each["answers"] for each in told] == [1, 0, 0, 0]
    lines = [variant_in_words(each) for each in told]
    assert "usual" in lines[0]
    assert "quality 1.000, 10.00 ms" in lines[0]
    assert "not measured yet" in lines[1]
    assert NO_FOG in lines[3]


def test_what_is_served_is_amended_only_while_it_is_served(serving):
    before = serving.served
    serving.serve(replace(before))
    with pytest.raises(DewfallError, match="exchanged meanwhile"):
        serving.amend(before, replace(before, variants=()))
    assert serving.served.variants == before.variants
    now = serving.served
    serving.amend(now, replace(now, variants=now.variants[:1]))
    assert len(serving.served.variants) == 1
