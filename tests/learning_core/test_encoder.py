import json

import numpy as np
import pytest
import torch
from safetensors.torch import save
from tiny_encoder import CONFIG, TEXTS, tiny_files
from torch import nn

from learning_core.errors import Malformed
from learning_core.methods.analytic import on_grid, ridge, statistics_of
from learning_core.metrics.calibration import accuracy
from learning_core.models.encoder import Encoder, batch_of, embed, encoder_of, mean_pool, token_mean, word_and_meaning
from learning_core.training.encoder_head import STRENGTH, text_features


@pytest.fixture(scope="module")
def files():
    return tiny_files()


@pytest.fixture(scope="module")
def encoder(files):
    return encoder_of(files)


def test_a_mean_is_over_the_tokens_that_are_there():
    state = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    torch.testing.assert_close(token_mean(state, mask), torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(mean_pool([state], mask), torch.tensor([[0.6, 0.8]]))


def test_shorter_texts_are_padded_to_the_longest_and_no_further():
    ids, mask = batch_of([[5, 6], [7]], padding=9)
    assert ids.tolist() == [[5, 6], [7, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]


def test_a_text_has_the_same_place_whatever_is_embedded_beside_it(encoder):
    together = embed(encoder, TEXTS)
    assert together.shape == (4, 8)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embed(encoder, [text])[0], row, atol=1e-5)
    np.testing.assert_allclose(embed(encoder, TEXTS, piece=1), together, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_words_and_meanings_stand_side_by_side(encoder):
    wide = embed(encoder, TEXTS, word_and_meaning)
    assert wide.shape == (4, 32)
    units = wide[:, :8] / np.linalg.norm(wide[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(units, embed(encoder, TEXTS), atol=1e-5)


def test_nothing_is_embedded_as_nothing_and_an_encoder_cannot_be_trained_by_accident(encoder):
    assert len(embed(encoder, [])) == 0
    assert not any(value.requires_grad for value in encoder.module.parameters())
    assert not encoder.module.training


def test_reading_an_encoder_draws_nothing_from_the_common_generator(files):
    before = torch.get_rng_state()
    encoder_of(files)
    assert torch.equal(torch.get_rng_state(), before)


def test_longer_texts_are_cut(files):
    short = encoder_of(files, max_tokens=2)
    np.testing.assert_array_equal(embed(short, ["turn on the light"]), embed(short, ["turn on please"]))


def test_weights_saved_with_a_head_are_those_of_the_encoder(files, encoder):
    from safetensors.torch import load

    renamed = {
        f"bert.{name}": value for name, value in load(files["model.safetensors"]).items() if "pooler" not in name
    }
    renamed["cls.bias"] = torch.zeros(3)
    other = encoder_of(files | {"model.safetensors": save(renamed)})
    np.testing.assert_array_equal(embed(other, TEXTS), embed(encoder, TEXTS))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"config.json": None}, "no config.json"),
        ({"tokenizer.json": None}, "no tokenizer.json"),
        ({"model.safetensors": None, "pytorch_model.bin": b""}, "safetensors"),
        ({"model.safetensors": b"not weights"}, "cannot be read"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json cannot be read"),
        ({"config.json": json.dumps(CONFIG | {"hidden_size": 16}).encode()}, "differ at"),
        ({"config.json": json.dumps(CONFIG | {"model_type": "of their own"}).encode()}, "cannot be read"),
        ({"config.json": json.dumps(CONFIG | {"num_attention_heads": 0}).encode()}, "cannot be read"),
        ({"config.json": json.dumps(CONFIG | {"hidden_size": -4}).encode()}, "cannot be read"),
        ({"config.json": json.dumps(CONFIG | {"dtype": "of their own"}).encode()}, "cannot be read"),
        ({"config.json": b"[1]"}, "cannot be read"),
    ],
)
def test_a_folder_that_is_no_encoder_is_refused(files, damage, says):
    given = {name: data for name, data in (files | damage).items() if data is not None}
    with pytest.raises(Malformed, match=says):
        encoder_of(given)


def test_a_plain_module_is_an_encoder_too_and_carries_the_analytic_head():
    table = nn.Embedding(26, 16, _weight=torch.randn(26, 16, generator=torch.Generator().manual_seed(0)))
    letters = Encoder(
        table,
        lambda texts: [[ord(letter) - ord("a") for letter in text] for text in texts],
        lambda ids, _: [table(ids)],
    )
    texts, labels = ["abc", "cab", "bca", "xyz", "zyx"], np.array([0, 0, 0, 1, 1])
    features = on_grid(embed(letters, texts))
    head = ridge(statistics_of(features, labels, 2), 0.1)
    assert accuracy(head.logits(features), labels) == 1.0
    assert head.logits(on_grid(embed(letters, ["bac", "yzx"]))).argmax(axis=1).tolist() == [0, 1]


def test_what_the_default_head_learns_in_two_tasks_it_learns_at_once(encoder):
    features = text_features(encoder, ["now", "please"], count=64, seed=1)
    labels = np.array([0, 1, 2, 1])
    at_once = statistics_of(features(TEXTS), labels, 3)
    tasks = [statistics_of(features(TEXTS[part]), labels[part], 3) for part in (slice(2, 4), slice(0, 2))]
    np.testing.assert_allclose(tasks[0].plus(tasks[1]).gram, at_once.gram, atol=1e-2)  # padding moves a bit
    assert accuracy(ridge(at_once, STRENGTH).logits(features(TEXTS)), labels) == 1.0
