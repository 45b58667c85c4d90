import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from learning_core.errors import ConfigError
from learning_core.methods.ewc import (
    Anchor,
    anchor_at,
    fisher_of_logits,
    fisher_of_outputs,
    merge,
    normalised,
    penalty,
    re_anchor,
)

seeds = st.integers(0, 2**31)


def seeded(seed=0):
    return Generator().manual_seed(seed)


def one(value):
    return {"w": torch.tensor([value], requires_grad=True)}


def adapter(seed=0, rank=2, size=4):
    """B and A of a change W x + B A x, both trained."""
    generator = seeded(seed)
    factors = {
        "lora_B": torch.randn(size, rank, generator=generator),
        "lora_A": torch.randn(rank, size, generator=generator),
    }
    return {name: value.requires_grad_(True) for name, value in factors.items()}


def answers(factors, inputs):
    return (F.linear(F.linear(row[None], factors["lora_A"]), factors["lora_B"]) for row in inputs)


def fisher_at(factors):
    inputs = torch.randn(64, factors["lora_A"].shape[1], generator=seeded(9))
    return fisher_of_logits(answers(factors, inputs), factors, seeded(3))


def turned(factors, turn):
    """The same function in other coordinates: (B R, R^-1 A)."""
    return {
        "lora_B": (factors["lora_B"] @ turn).detach(),
        "lora_A": (torch.linalg.inv(turn) @ factors["lora_A"]).detach(),
    }


def test_the_penalty_is_half_the_importance_times_the_squared_way():
    anchor = Anchor({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])})
    assert penalty({"w": torch.tensor([4.0])}, [anchor]) == 9.0
    assert penalty({"w": torch.tensor([4.0])}, [anchor, anchor]) == 18.0


def test_a_fair_coin_of_logit_w_has_information_one_quarter():
    weight = one(0.0)
    logits = (torch.stack([weight["w"], torch.zeros(1)], dim=1) for _ in range(7))
    torch.testing.assert_close(fisher_of_logits(logits, weight, seeded())["w"], torch.tensor([0.25]))


def test_labels_are_drawn_from_the_answer_so_a_sure_model_has_hardly_any_information():
    weight = one(3.0)
    logits = (torch.stack([weight["w"], torch.zeros(1)], dim=1) for _ in range(1500))
    p = torch.sigmoid(torch.tensor(3.0))
    found = fisher_of_logits(logits, weight, seeded())["w"]
    torch.testing.assert_close(found, (p * (1 - p))[None], atol=0.015, rtol=0)  # .25 for a fair coin


def test_the_tokens_of_a_sequence_add_up():
    weight = one(0.0)
    logits = (torch.stack([weight["w"], torch.zeros(1)], dim=1).expand(1, 1, 2) for _ in range(3))
    torch.testing.assert_close(fisher_of_logits(logits, weight, seeded())["w"], torch.tensor([0.25]))


def test_a_slope_of_three_has_information_nine_under_unit_noise():
    weight = one(0.5)
    found = fisher_of_outputs((3 * weight["w"] for _ in range(2)), weight, seeded())
    torch.testing.assert_close(found["w"], torch.tensor([9.0]))


def test_random_signs_find_the_sum_over_outputs():
    weight = one(0.5)
    slopes = torch.tensor([2.0, 3.0])
    found = fisher_of_outputs((slopes * weight["w"] for _ in range(1000)), weight, seeded())
    torch.testing.assert_close(found["w"], torch.tensor([13.0]), atol=1.2, rtol=0)


def test_a_new_adapter_has_no_information_in_a_at_all():
    factors = adapter()
    with torch.no_grad():
        factors["lora_B"].zero_()
    fisher = fisher_at(factors)
    assert not fisher["lora_A"].any()
    assert fisher["lora_B"].sum() > 0


@given(seeds)
def test_importance_is_brought_to_mean_one_whatever_its_scale(seed):
    fisher = {"a": 1e-6 * torch.rand(3, 2, generator=seeded(seed)) + 1e-9, "b": torch.rand(4, generator=seeded(seed))}
    found = torch.cat([value.flatten() for value in normalised(fisher).values()])
    assert float(found.mean()) == pytest.approx(1.0, rel=1e-5)
    assert (found >= 0).all()


def test_no_information_stays_none_and_no_example_gives_none():
    nothing = fisher_of_logits(iter(()), one(1.0), seeded())
    assert normalised(nothing)["w"].tolist() == [0.0]
    assert penalty({"w": torch.tensor([5.0])}, [anchor_at(one(1.0), nothing)]) == 0.0
    assert penalty({"w": torch.tensor([5.0])}, []) == 0.0


@given(seeds)
def test_the_penalty_is_zero_at_the_anchor_and_nowhere_below(seed):
    factors = adapter(seed)
    anchor = anchor_at(factors, {name: value.detach().abs() for name, value in factors.items()})
    assert penalty(factors, [anchor]) == 0.0
    assert penalty(adapter(seed + 7), [anchor]) >= 0.0


def test_an_anchor_does_not_follow_the_weights_it_was_taken_from():
    weight = one(1.0)
    anchor = anchor_at(weight, {"w": torch.ones(1)})
    with torch.no_grad():
        weight["w"].fill_(3.0)
    assert penalty(weight, [anchor]) == 2.0


def test_online_one_anchor_holds_both_tasks_the_older_one_fading():
    old = Anchor({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])})
    new = Anchor({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])})
    both = merge(old, new, decay=0.5)
    assert (both.params["w"], both.fisher["w"]) == (torch.tensor([1.0]), torch.tensor([4.0]))


def test_a_re_factorised_adapter_is_the_same_function_yet_costs_more_than_deleting_it_until_re_anchored():
    factors = adapter()
    anchor = anchor_at(factors, fisher_at(factors))
    same = turned(factors, torch.tensor([[0.0, -3.0], [1.0, 0.0]]))
    deleted = {name: torch.zeros_like(value) for name, value in factors.items()}

    torch.testing.assert_close(same["lora_B"] @ same["lora_A"], (factors["lora_B"] @ factors["lora_A"]).detach())
    assert penalty(same, [anchor]) > penalty(deleted, [anchor])

    leaves = {name: value.requires_grad_(True) for name, value in same.items()}
    anew = re_anchor(anchor, leaves, fisher_at(leaves))
    assert penalty(leaves, [anew]) == 0.0
    assert not torch.allclose(anew.fisher["lora_A"], anchor.fisher["lora_A"])


def test_where_both_factors_are_trained_the_old_importance_is_refused_after_a_move():
    factors = adapter()
    with pytest.raises(ConfigError, match="anew"):
        re_anchor(anchor_at(factors, fisher_at(factors)), turned(factors, torch.eye(2)))


def test_with_a_frozen_the_new_centre_is_enough():
    factors = adapter()
    ours = {"lora_B": factors["lora_B"]}
    anchor = anchor_at(ours, {"lora_B": fisher_at(factors)["lora_B"]})
    averaged = {"lora_B": (factors["lora_B"] + 0.1).detach()}

    moved = re_anchor(anchor, averaged)

    assert penalty(averaged, [moved]) == 0.0
    assert torch.equal(moved.fisher["lora_B"], anchor.fisher["lora_B"])


def test_after_a_merge_the_old_anchor_would_apply_the_change_twice_and_the_new_one_rests():
    factors = adapter()
    anchor = anchor_at({"lora_B": factors["lora_B"]}, {"lora_B": fisher_at(factors)["lora_B"]})
    fresh = {"lora_B": torch.zeros(4, 2, requires_grad=True)}

    (pull,) = torch.autograd.grad(penalty(fresh, [anchor]), list(fresh.values()))
    (rest,) = torch.autograd.grad(penalty(fresh, [re_anchor(anchor, fresh)]), list(fresh.values()))

    assert (-pull * factors["lora_B"]).sum() > 0  # a step would lead back to the old B, on top of the merged one
    assert not rest.any()
