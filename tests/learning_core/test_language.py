import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.errors import ConfigError, Malformed
from learning_core.models.language import (
    LanguageConfig,
    attention_bias,
    bits_per_character,
    draw_windows,
    generate,
    ids_of,
    language_loss,
    language_of,
    new_language,
    text_of,
)
from learning_core.models.weights import weights_of

TINY = LanguageConfig(width=16, depth=2, heads=2, context=8)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def lively(seed=0, config=TINY):
    """A model whose layers all have a say; a new one begins as its table alone."""
    model = new_language(config, seed).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=rng(seed)))
    return model


def test_the_default_model_has_824_thousand_weights():
    # 4 blocks of 12 * 128^2 weights and 9 * 128 biases, and a head of 256 * 128 and 256
    sizes = sum(value.numel() for value in new_language(LanguageConfig(), 0).parameters())
    assert sizes == 4 * (12 * 128**2 + 9 * 128) + 256 * 129 == 824_064


@pytest.mark.parametrize("sizes", [{"width": 0}, {"depth": 0}, {"context": 1}, {"width": 18, "heads": 4}])
def test_sizes_that_make_no_model_are_refused(sizes):
    with pytest.raises(ConfigError, match="must be"):
        LanguageConfig(**sizes)


def test_one_who_knows_nothing_needs_eight_bits():
    model = new_language(TINY, 0)
    torch.nn.init.zeros_(model.head.weight)
    assert bits_per_character(model, b"any text at all") == pytest.approx(8.0)
    windows = ids_of(b"any text")[None]
    assert language_loss(model, windows).item() == pytest.approx(math.log(256))


def test_bits_count_every_byte_but_the_first_once():
    # 8 + 8 + 4 bytes are foretold from contexts of 8: the mean of each byte's own surprise, weighted alike
    model, text = lively(), bytes(range(60, 81))
    ids = ids_of(text)
    pieces = [ids[0:9], ids[8:17], ids[16:21]]
    nats = sum(language_loss(model, piece[None]).item() * (len(piece) - 1) for piece in pieces)
    assert bits_per_character(model, text) == pytest.approx(nats / 20 / math.log(2), rel=1e-5)


def test_two_bytes_are_the_shortest_text_that_can_be_judged():
    assert bits_per_character(lively(), b"ab") > 0
    for text in (b"", b"a"):
        with pytest.raises(ValueError, match="two ids"):
            bits_per_character(lively(), text)


def test_attention_falls_with_distance_and_never_looks_ahead():
    bias = attention_bias(LanguageConfig(width=16, heads=2, context=3))
    # slopes 2^-4 and 2^-8, one byte back and two bytes back
    torch.testing.assert_close(bias[0, 2], torch.tensor([-2 / 16, -1 / 16, 0.0]))
    torch.testing.assert_close(bias[1, 2], torch.tensor([-2 / 256, -1 / 256, 0.0]))
    assert bias[:, 0, 1:].isneginf().all()


@settings(max_examples=15)
@given(st.binary(min_size=8, max_size=8), st.integers(0, 7), st.integers(0, 255))
def test_what_comes_later_changes_nothing_before_it(text, place, other):
    model, ids = lively(), ids_of(text)[None]
    changed = ids.clone()
    changed[0, place] = other
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[:, :place], model(changed)[:, :place])


def test_the_likeliest_text_is_the_same_with_and_without_memory():
    model, prompt = lively(3), ids_of(b"ab")[None]
    ids = prompt
    with torch.no_grad():
        for _ in range(6):  # the whole context again for each byte
            ids = torch.cat((ids, model(ids)[:, -1].argmax(dim=1, keepdim=True)), dim=1)
    assert torch.equal(generate(model, prompt, 6, 0, rng()), ids)


def test_a_text_may_outgrow_the_context():
    model = lively()
    written = generate(model, ids_of(b"a long beginning")[None].repeat(2, 1), 20, 1.0, rng())
    assert written.shape == (2, 36)
    assert text_of(written[0, :16]) == b"a long beginning"
    assert torch.equal(generate(model, ids_of(b"x")[None], 0, 1.0, rng()), ids_of(b"x")[None])


def test_the_same_generator_writes_the_same_text():
    model, prompt = lively(), ids_of(b"a")[None]
    assert torch.equal(generate(model, prompt, 12, 1.0, rng(1)), generate(model, prompt, 12, 1.0, rng(1)))
    assert not torch.equal(generate(model, prompt, 12, 1.0, rng(1)), generate(model, prompt, 12, 1.0, rng(2)))


@given(st.binary(max_size=50))
def test_text_survives_as_ids(text):
    assert text_of(ids_of(text)) == text


def test_windows_lie_inside_the_text():
    ids = ids_of(bytes(range(10)))
    windows = draw_windows(ids, 50, 4, rng())
    assert (windows.diff(dim=1) == 1).all()
    assert set(windows[:, 0].tolist()) == set(range(7))
    with pytest.raises(ValueError, match="no window"):
        draw_windows(ids, 1, 11, rng())


def test_equal_seeds_give_equal_models_and_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    one, same, other = (weights_of(new_language(TINY, seed)) for seed in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    assert not (one["head.weight"] == other["head.weight"]).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_make_the_same_model_again_and_those_of_another_are_refused():
    model, ids = lively(), ids_of(b"hello")[None]
    again = language_of(TINY, weights_of(model))
    assert torch.equal(again(ids), model(ids))
    with pytest.raises(Malformed, match="another model"):
        language_of(LanguageConfig(width=16, depth=1, heads=2, context=8), weights_of(model))


def test_a_text_is_one_point_whatever_its_length():
    model = lively()
    assert model.embed(ids_of(b"hello")[None]).shape == model.embed(ids_of(b"hi")[None]).shape == (1, 16)
