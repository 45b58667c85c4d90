"""The small form of the proof: two seeds of digits. It asserts the ordering, not the decimals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learning_core.errors import ConfigError
from learning_core.metrics.stages import forgetting
from learning_core.training.fitting import Recipe
from simulations.bench.continual import digits
from simulations.bench.continual.part import mean_and_spread
from simulations.bench.continual.run import PARTS, Options, chosen, key_of, page
from simulations.bench.continual.stream_curricula import (
    at_once,
    easy_first,
    easy_first_and_gently,
    tones_first,
    warmed_up,
)
from simulations.bench.continual.stream_runs import CURRICULA, METHODS, matrix
from simulations.bench.continual.streams import joined, split_digits

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def results():
    torch.set_num_threads(1)
    return [
        {
            setting: {
                name: matrix(split_digits(setting, seed), method, seed)
                for name, method in METHODS.items()
                if name != "ER-ACE"  # the small form asserts nothing of these
            }
            for setting in ("class",)
        }
        for seed in SEEDS
    ]


def final(results, name):
    return np.mean([digits.final_accuracy(result["class"][name]) for result in results])


def test_methods_come_out_in_the_order_their_papers_give_them(results):
    order = ("naive", "A-GEM", "replay", "condensed replay", "joint")
    accuracies = [final(results, name) for name in order]
    assert accuracies == sorted(accuracies)
    assert final(results, "DER++") > final(results, "replay")
    assert final(results, "GEM") > final(results, "A-GEM")


def test_regularisation_alone_does_not_learn_classes_one_after_another(results):
    assert all(final(results, name) < 0.6 for name in ("naive", "EWC", "LwF"))


def test_who_rehearses_forgets_little(results):
    forgot = {
        name: np.mean([forgetting(np.array(result["class"][name])) for result in results])
        for name in ("naive", "condensed replay")
    }
    assert forgot["condensed replay"] < 0.1
    assert forgot["naive"] > 0.8


def test_the_report_says_what_was_measured(results):
    curricula = [
        {
            name: result["class"][name.split(",")[0]] if "first" in name else result["class"]["naive"]
            for name in CURRICULA
        }
        for result in results
    ]
    every = [
        dict.fromkeys(digits.SETTINGS, result["class"]) | {"curricula": found}
        for result, found in zip(results, curricula, strict=True)
    ]
    naive = [result["class"]["naive"] for result in results]
    peers = {setting: {"DER++": naive} for setting in digits.SETTINGS}
    part = digits.summarise(every, peers)
    claims = {claim.id: claim for claim in part.claims}
    assert claims["continual.digits.accuracy"].value == pytest.approx(final(results, "condensed replay"))
    lead = claims["continual.digits.lead_over_avalanche"]
    assert lead.value == pytest.approx(final(results, "condensed replay") - final(results, "naive"))
    assert part.figures["leads"]["task"]["ours"] == "condensed replay"
    assert part.figures["curricula"]["replay, tones first"] == (0, 0, 0)
    assert part.figures["curricula"]["replay, warm-up"][0] < -0.5
    html = page([part], part.claims, Options(seeds=2))
    assert "condensed replay" in html
    assert "Not run: flow_digits" in html


def test_tasks_part_the_digits_without_overlap():
    tasks = split_digits("class", 0)
    assert [sorted(set(task.y.tolist())) for task in tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert sum(len(task.y) for task in tasks) == 1400
    assert len(joined(tasks).test_y) == 397
    assert {int(output) for output in split_digits("task", 0)[1].outputs} == {2, 3}
    assert set(split_digits("domain", 0)[4].y.tolist()) == {0, 1}


@pytest.mark.parametrize("entering", [at_once, easy_first, tones_first, warmed_up, easy_first_and_gently])
def test_a_curriculum_takes_as_many_steps_and_ends_with_all_samples(entering):
    task = split_digits("class", 0)[0]
    recipe = Recipe(steps=30)
    pieces = list(entering(task, recipe))
    assert sum(num for *_, num in pieces) == 30
    last, last_recipe, _ = pieces[-1]
    assert sorted(map(tuple, last.x.tolist())) == sorted(map(tuple, task.x.tolist()))
    assert last_recipe.steps == 30


def test_what_a_curriculum_changes_is_what_it_says():
    task = split_digits("class", 0)[0]
    sizes = [len(piece.y) for piece, _, _ in easy_first(task, Recipe(steps=30))]
    assert sizes == [-(-len(task.y) * stage // 3) for stage in (1, 2, 3)]
    flat = [
        float(piece.x.view(-1, 8, 8).diff(dim=2).abs().mean()) for piece, _, _ in tones_first(task, Recipe(steps=30))
    ]
    assert flat == sorted(flat)
    rates = [recipe.learning_rate for _, recipe, _ in easy_first_and_gently(task, Recipe(steps=30))]
    assert rates[0] < rates[1] < Recipe().learning_rate
    assert [recipe.warm_up for _, recipe, _ in warmed_up(task, Recipe(steps=30))] == [5]


def test_a_spread_by_hand():
    mean, low, high = mean_and_spread([1.0, 2.0, 3.0])
    assert (mean, round(high - 2, 3), round(2 - low, 3)) == (2, 2.484, 2.484)  # 4.303 * 1 / sqrt(3)
    assert mean_and_spread([5.0]) == (5, 5, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(parts=["dygits"]), "there is no part 'dygits'"),
        (Options(parts=["clinc"]), "give its folder with --data"),
        (Options(data=Path("/nowhere")), "does not exist"),
        (Options(peers=Path("/nowhere/python")), "is not a Python to run"),
    ],
)
def test_what_cannot_run_is_said_before_anything_runs(options, said):
    with pytest.raises(ConfigError, match=said):
        chosen(options)


def test_without_data_the_parts_that_need_none_run():
    names = [module.NAME for module in chosen(Options())]
    assert "digits" in names
    assert "clinc" not in names
    assert set(names) <= set(PARTS)


def test_a_changed_setting_has_another_key():
    method = METHODS["naive"]
    assert key_of({"a": str(method)}) == key_of({"a": str(method)})
    assert key_of({"a": str(method)}) != key_of({"a": str(replace(method, rate=0.5))})
