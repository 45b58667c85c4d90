from pathlib import Path

import pytest
import torch

from learning_core.errors import ConfigError, Malformed
from learning_core.models.language import LanguageConfig, new_language
from learning_core.models.language_pretraining import pretrain_language
from learning_core.training.fitting import Recipe
from simulations.bench.continual import language
from simulations.bench.continual.data_shakespeare import load_shakespeare, parted

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TURNS = [b"MENENIUS:\nHail!", b"ROMEO:\nSoft, what light?", b"GLOUCESTER:\nNow is the winter."]


def text(repeats=10):
    return b"\n\n".join(TURNS * repeats) + b"\n"


def test_two_speakers_are_kept_from_the_base_and_one_of_them_shouts():
    found = parted(text())
    assert found.base.learn == b"ROMEO:\nSoft, what light?\n\n" * 9
    assert found.base.judge == b"ROMEO:\nSoft, what light?\n\n"
    assert found.upper.learn == b"MENENIUS:\nHAIL!\n\n" * 8  # 8.5 of 10, to the even neighbour
    assert found.speaker.judge == b"GLOUCESTER:\nNow is the winter.\n\n" * 2


def test_another_text_or_none_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(Malformed, match="not Tiny Shakespeare"):
        parted(b"ROMEO:\nAlone.\n")
    with pytest.raises(ConfigError, match="--data"):
        load_shakespeare(tmp_path)
    with pytest.raises(ValueError, match="data folder"):
        language.run_seed(0, None)


@pytest.mark.skipif(not (DATA / "tinyshakespeare").is_dir(), reason="Tiny Shakespeare is not on this machine")
def test_the_shift_is_the_measured_one():
    found = load_shakespeare(DATA)
    sizes = [len(part) for parts in (found.base, found.upper, found.speaker) for part in (parts.learn, parts.judge)]
    assert sum(sizes) == pytest.approx(1_115_394, abs=10)
    assert 19_000 < sizes[2] < 22_000
    assert found.upper.learn == found.upper.learn.upper()


def test_forgetting_and_gain_are_read_off_the_matrix():
    bits = [[2.5, 6.0], [2.6, 2.4]]
    assert language.forgetting(bits) == pytest.approx(0.1)
    assert language.gain(bits) == pytest.approx(3.6)


def results(lost):
    matrix = [[2.5, 6.5], [2.5 + lost, 2.75]]
    return {shift: dict.fromkeys(methods, matrix) | {"writes": "A <b>"} for shift, methods in language.SHIFTS.items()}


def test_claims_are_computed_from_the_seeds():
    part = language.summarise([results(0.08), results(0.10), results(0.12)], None)
    assert [claim.id for claim in part.claims] == ["continual.language.forgetting_bpc", "continual.language.gain_bpc"]
    lost, won = part.claims
    assert lost.value == pytest.approx(0.10)
    assert lost.high == pytest.approx(0.10 + 4.303 * 0.02 / 3**0.5, abs=1e-3)  # Student's t, two degrees of freedom
    assert (lost.verdict, won.verdict, won.value) == ("inconclusive", "holds", 3.75)
    assert "A &lt;b&gt;" in part.sections["upper: bits per character"]


def test_a_small_run_fills_a_matrix_for_every_method(monkeypatch):
    monkeypatch.setattr(language, "RANK", 2)
    base = new_language(LanguageConfig(width=16, depth=1, heads=2, context=16), 0)
    found = parted(text(40))
    with torch.random.fork_rng():
        pretrain_language(base, found.base.learn, 20, batch=4)
        result = language.compared(base, found, Recipe(steps=5, batch=4, learning_rate=1e-2))
    for shift, methods in language.SHIFTS.items():
        assert result[shift].keys() == {*methods, "writes"}
        for method in methods:
            before, after = result[shift][method]
            assert before == result[shift]["naive"][0]
            assert after[1] < before[1]
