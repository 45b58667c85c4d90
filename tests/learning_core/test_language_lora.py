from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.errors import Malformed
from learning_core.models.language import LanguageConfig, bits_per_character, ids_of, language_of, new_language
from learning_core.models.language_lora import (
    adapter_shapes,
    adapter_weights,
    build_student,
    frozen_base,
    read_adapter,
    start_factors,
    write_adapter,
)
from learning_core.models.language_pretraining import pretrain_language
from learning_core.models.lora import merge
from learning_core.models.weights import weights_of
from learning_core.params import shapes_of
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.texts import OwnWriting, fit_text, lesson, own_writing

TINY = LanguageConfig(width=16, depth=1, heads=2, context=8)
TEXT = b"the dew falls on the fog and the fog falls on the dew. "
RECIPE = Recipe(steps=6, batch=4, learning_rate=2e-2, seed=3)
REHEARSAL = OwnWriting(windows=5)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def base(seed=0):
    model = new_language(TINY, seed).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=rng(seed)))
    return model


def student(rank=2):
    return build_student(TINY, weights_of(base()), start_factors(TINY, rank, seed=1), 4.0)


def some_adapter(seed=0):
    rows = np.random.default_rng(seed)
    return {name: rows.normal(0, 0.3, shape).astype(np.float32) for name, shape in adapter_shapes(TINY, 2).items()}


def test_the_default_adapter_has_78_thousand_numbers():
    # r * out of each layer: 16 * (4 blocks of (3 + 1 + 4 + 1) * 128, and a head of 256)
    shapes = adapter_shapes(LanguageConfig(), 16)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 16 * (4 * 9 * 128 + 256) == 77_824


def test_a_new_adapter_changes_nothing_and_only_it_can_be_trained():
    model, ids = student(), ids_of(TEXT)[None, :8]
    torch.testing.assert_close(model(ids), base()(ids))
    trainable = {id(value) for value in model.parameters() if value.requires_grad}
    assert trainable == {id(value) for value in adapter_weights(model).values()}
    assert shapes_of(read_adapter(model)) == adapter_shapes(TINY, 2)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_a_merged_model_does_what_base_and_adapter_do_together(seed):
    model, ids = student(), ids_of(TEXT)[None, :8]
    write_adapter(model, some_adapter(seed))
    torch.testing.assert_close(language_of(TINY, merge(model))(ids), model(ids), atol=1e-5, rtol=1e-5)
    assert torch.equal(frozen_base(model)(ids), base()(ids))


def test_an_adapter_on_the_head_changes_what_is_read_as_well_as_what_is_written():
    model = student()
    adapter = {name: np.zeros_like(value) for name, value in some_adapter().items()}
    adapter["head.lora_B"][65] = 1.0  # the byte "A"
    write_adapter(model, adapter)
    moved = (model.table() - base().table()).abs().amax(dim=1)
    assert moved[65] > 0.01
    assert moved.count_nonzero() == 1
    assert (model.hidden(ids_of(b"A")[None]) - base().hidden(ids_of(b"A")[None])).abs().max() > 1e-3


def test_an_adapter_of_another_model_is_refused_and_changes_nothing():
    model, broken = student(), some_adapter()
    del broken["head.lora_B"]
    with pytest.raises(Malformed, match=r"head\.lora_B"):
        write_adapter(model, broken)
    assert not any(value.any() for value in read_adapter(model).values())
    with pytest.raises(Malformed, match="factors"):
        build_student(TINY, weights_of(base()), {}, 4.0)


def test_a_text_is_learned_from_scratch_and_again_to_the_same_bits():
    models = [new_language(TINY, 0) for _ in range(2)]
    seen: list[int] = []
    for model in models:
        pretrain_language(model, TEXT, 40, seed=1, batch=8, on_step=lambda step, _: seen.append(step))
    assert bits_per_character(models[0], TEXT) < 5 < bits_per_character(new_language(TINY, 0), TEXT)
    assert seen == [*range(40), *range(40)]
    one, other = (weights_of(model) for model in models)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="too little"):
        pretrain_language(models[0], b"short", 1)


def test_an_adapter_learns_a_text_and_resumes_to_the_same_bits():
    text = ids_of(TEXT)
    whole = fit_text(student(), text, RECIPE, start_state(read_adapter(student())), 6, REHEARSAL)[0]
    half = fit_text(student(), text, RECIPE, start_state(read_adapter(student())), 3, REHEARSAL)[0]
    model = student()
    rest, losses = fit_text(model, text, RECIPE, half, 3, REHEARSAL)
    assert (rest.step, len(losses)) == (6, 3)
    assert all(np.array_equal(value, rest.adapter[name]) for name, value in whole.adapter.items())
    assert bits_per_character(model, TEXT) < bits_per_character(base(), TEXT)


def test_a_new_adapter_is_at_no_distance_from_the_base():
    model, text = student(), ids_of(TEXT)
    written = own_writing(base(), text, 5, rng())
    kept, alone = lesson(model, base(), text, written, 2, 2), lesson(model, base(), text, written, 2, 0)
    torch.testing.assert_close(kept(rng(1)), alone(rng(1)))
    write_adapter(model, some_adapter())
    assert kept(rng(1)) > alone(rng(1)) + 0.01


def test_the_base_writes_from_bytes_of_the_new_text():
    written = own_writing(base(), ids_of(b"AB"), 20, rng())
    assert written.shape == (20, 9)
    assert set(written[:, 0].tolist()) == {65, 66}
    assert own_writing(base(), ids_of(b"AB"), 0, rng()).shape == (0, 9)


def test_keeping_the_base_keeps_it():
    text, other = ids_of(TEXT.upper()), TEXT
    taught = new_language(TINY, 0)
    pretrain_language(taught, other, 60, seed=1, batch=8)
    lost = []
    for share in (0.0, 0.5):
        model = build_student(TINY, weights_of(taught), start_factors(TINY, 2, seed=1), 4.0)
        recipe = replace(RECIPE, steps=30, batch=8 if share else 4)  # as much new text
        fit_text(model, text, recipe, start_state(read_adapter(model)), 30, OwnWriting(20, share))
        lost.append(bits_per_character(model, other) - bits_per_character(taught, other))
        assert bits_per_character(model, TEXT.upper()) < bits_per_character(taught, TEXT.upper()) - 0.5
    assert lost[1] < 0.7 * lost[0]
