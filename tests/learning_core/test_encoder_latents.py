from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learning_core.errors import ConfigError
from learning_core.models.encoder import batch_of
from learning_core.models.encoder_split import split, upper_projections
from learning_core.models.peft_door import Plan, adapted
from learning_core.training.fitting import Budget, Recipe, fit, read, start_state
from learning_core.training.latents import (
    Latents,
    cached,
    expected_step_ratio,
    label_loss,
    worth_caching_after,
)

TOKENS = [[2, 3, 5, 6], [4], [5, 6, 7], [2, 4, 5]]
LABELS = np.array([0, 1, 0, 1])
PLAN = Plan(("encoder.layer.3.attention.self.query", "encoder.layer.3.attention.self.value"), rank=2)


def tiny_bert():
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
    )
    return AutoModel.from_config(config).eval().requires_grad_(False)


def passed(trunk, ids, mask):
    return trunk(ids, attention_mask=mask).last_hidden_state


def answer(upper, latents, mask):
    state = upper(inputs_embeds=latents, attention_mask=mask).last_hidden_state
    return (state * mask[..., None]).sum(dim=1)[:, :2]


def answered_anew(trunk, upper, ids, mask):
    return answer(upper, passed(trunk, ids, mask), mask)


def from_tokens(chosen):
    return batch_of([TOKENS[index] for index in chosen], padding=0)


def test_a_batch_is_padded_with_zeros_and_says_where():
    latents = Latents(np.float16([[1, 2], [3, 4], [5, 6]]), np.array([0, 2, 3]))
    rows, mask = latents.batch(np.array([1, 0]))
    assert rows.tolist() == [[[5, 6], [0, 0]], [[1, 2], [3, 4]]]
    assert mask.tolist() == [[1, 0], [1, 1]]
    assert (len(latents), latents.num_bytes) == (2, 3 * 2 * 2 + 3 * 8)


@given(st.permutations(range(4)), st.integers(1, 4))
def test_what_is_cached_is_what_leaves_the_trunk(chosen, piece):
    table = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    latents = cached(lambda ids, _: table[ids], TOKENS, padding=0, piece=piece)
    rows, mask = latents.batch(np.array(chosen))
    for row, there, index in zip(rows, mask, chosen, strict=True):
        torch.testing.assert_close(row[there.bool()], table[TOKENS[index]].half().float(), rtol=0, atol=0)


def test_what_float16_cannot_hold_is_not_cached():
    with pytest.raises(ValueError, match="beyond float16"):
        cached(lambda ids, _: torch.full((*ids.shape, 2), 7e4), TOKENS, padding=0)


def test_nothing_cannot_be_cached():
    with pytest.raises(ValueError, match="nothing to cache"):
        cached(lambda ids, _: ids, [], padding=0)


def test_the_two_halves_are_the_whole():
    module = tiny_bert()
    trunk, upper = split(module, 3)
    latents = cached(partial(passed, trunk), TOKENS, padding=0)
    ids = torch.tensor([[2, 3, 5, 6], [4, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    whole = module(ids, attention_mask=mask).last_hidden_state
    rows, mask_again = latents.batch(np.array([0, 1]))
    halves = upper(inputs_embeds=rows, attention_mask=mask_again).last_hidden_state
    assert torch.equal(mask, mask_again)
    torch.testing.assert_close(halves[mask.bool()], whole[mask.bool()], atol=2e-3, rtol=2e-3)


def test_adapters_go_on_the_projections_above_the_cut():
    assert tuple(upper_projections(tiny_bert(), 3)) == PLAN.layers


@pytest.mark.parametrize("below", [0, 4])
def test_an_encoder_is_cut_between_its_blocks_only(below):
    with pytest.raises(ConfigError, match="1 to 3"):
        split(tiny_bert(), below)


def test_a_model_of_another_build_cannot_be_cut():
    with pytest.raises(ConfigError, match="cannot be cut"):
        split(torch.nn.Linear(2, 2), 1)


def test_training_on_latents_ends_where_training_on_the_whole_does():
    ends = []
    for on_latents in (True, False):
        module = tiny_bert()
        leaves = adapted(module, {"shared": PLAN}).leaves["shared"]
        trunk, upper = split(module, 3)
        batch = cached(partial(passed, trunk), TOKENS, padding=0).batch if on_latents else from_tokens
        whole = partial(answer, upper) if on_latents else partial(answered_anew, trunk, upper)
        loss = label_loss(batch, LABELS, whole, lambda generator: torch.randperm(4, generator=generator).numpy())
        state, losses = fit(leaves, loss, Recipe(steps=20), start_state(read(leaves)), Budget(20))
        assert losses[-1] < losses[0]
        ends.append(state.adapter)
    assert any(np.abs(value).max() > 0.01 for name, value in ends[0].items() if name.endswith("lora_B"))
    for name, value in ends[0].items():
        np.testing.assert_allclose(value, ends[1][name], atol=0.02)


def test_four_frozen_blocks_of_six_halve_a_step():
    assert expected_step_ratio(trunk_weights=4, upper_weights=2) == 0.5
    assert expected_step_ratio(0, 2) == 1.0


def test_caching_pays_after_as_many_steps_as_it_saves():
    assert worth_caching_after(10.0, 0.3, 0.1) == pytest.approx(50)
    assert worth_caching_after(10.0, 0.1, 0.1) == float("inf")
