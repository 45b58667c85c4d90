"""Claim: a language model that meets text IN UPPER CASE learns to read it, and hardly forgets how to read the rest.

A byte model reads Tiny Shakespeare without two speakers. Then a device sees 20 KB of one of them, shouting: a shift so
large that methods can be told apart. The other one, as he speaks, is the realistic case, with a small gain.
"""

import html
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor

from learning_core.models.language import (
    Language,
    LanguageConfig,
    bits_per_character,
    draw_windows,
    generate,
    ids_of,
    language_loss,
    new_language,
    text_of,
)
from learning_core.models.language_lora import adapter_weights, build_student, read_adapter, start_factors
from learning_core.models.language_pretraining import pretrain_language
from learning_core.models.weights import weights_of
from learning_core.training.fitting import Budget, Loss, Recipe, fit, start_state
from learning_core.training.texts import ALPHA, RANK, RECIPE, OwnWriting, fit_text, lesson
from simulations import report
from simulations.bench.continual.data_shakespeare import Parted, Shakespeare, load_shakespeare
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.report import Claim

NAME = "language"
NEEDS_DATA = True
CONFIG = LanguageConfig()
BASE_STEPS = 600
LEARNED, KEPT = 8, 8  # windows of a batch for the methods compared with, as in ours: they differ in whose text is kept
WEIGHT = OwnWriting().weight
REPLAY_BYTES, SLICE_BYTES = 8192, 2048  # of the base's text, of which naive learning and ours store nothing
JUDGED_BYTES = 32_768  # of the base's held-out text
PROMPT_BYTES, WRITTEN_BYTES = 32, 200
SETTING: dict[str, Any] = {
    "model": asdict(CONFIG),
    "base_steps": BASE_STEPS,
    "recipe": asdict(RECIPE),
    "rank": RANK,
    "alpha": ALPHA,
    "rehearsal": asdict(OwnWriting()),
    "compared": {"learned": LEARNED, "kept": KEPT, "replay_bytes": REPLAY_BYTES, "slice_bytes": SLICE_BYTES},
    "judged_bytes": JUDGED_BYTES,
}
OURS = "own writing"
METHODS = ("naive", "replay", "distil a slice", OURS)
SHIFTS = {"upper": METHODS, "speaker": ("naive", OURS)}
HEADINGS = ("method", "base before", "base after", "forgetting", "new before", "new after", "gain")

Matrix = Sequence[Sequence[float]]
"""Bits per character before and after (rows) of the base's text and of the new one (columns)."""


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    """For each shift and method, the matrix of bits per character, and a piece of what the model then writes."""
    if data is None:
        raise ValueError("Shakespeare is read from a data folder")
    texts = load_shakespeare(data)
    base = new_language(CONFIG, seed)
    pretrain_language(base, texts.base.learn, BASE_STEPS, seed=seed)
    return compared(base, texts, Recipe(**asdict(RECIPE) | {"seed": seed}))


def compared(base: Language, texts: Shakespeare, recipe: Recipe) -> dict[str, Any]:
    kept = texts.base.judge[:JUDGED_BYTES]
    result: dict[str, Any] = {}
    for shift, methods in SHIFTS.items():
        new: Parted = getattr(texts, shift)
        before = [bits_per_character(base, kept), bits_per_character(base, new.judge)]
        result[shift] = {}
        for method in methods:
            model = learned(method, base, new.learn, texts.base.learn, recipe)
            result[shift][method] = [before, [bits_per_character(model, kept), bits_per_character(model, new.judge)]]
        result[shift]["writes"] = written(model, new.judge)
    return result


def learned(method: str, base: Language, new: bytes, stored: bytes, recipe: Recipe) -> Language:
    """The base with an adapter that has learned a text; `stored` is old text, of which two methods keep a piece."""
    start = start_factors(base.config, RANK, recipe.seed)
    model = build_student(base.config, weights_of(base), start, ALPHA)
    state = start_state(read_adapter(model))
    if method == OURS:
        fit_text(model, ids_of(new), recipe, state, recipe.steps)
        return model
    length, text = base.context + 1, ids_of(new)

    def replay(generator: Generator) -> Tensor:
        fresh = draw_windows(text, LEARNED, length, generator)
        old = draw_windows(ids_of(stored[:REPLAY_BYTES]), KEPT, length, generator)
        return language_loss(model, torch.cat((fresh, old)))

    losses: dict[str, Loss] = {
        "naive": lesson(model, base, text, text, LEARNED, 0),
        "replay": replay,
        "distil a slice": lesson(
            model, base, text, ids_of(stored[:SLICE_BYTES]).unfold(0, length, 1), LEARNED, KEPT, WEIGHT
        ),
    }
    fit(adapter_weights(model), losses[method], recipe, state, Budget(recipe.steps))
    return model


def written(model: Language, text: bytes) -> str:
    prompt = ids_of(text[:PROMPT_BYTES])[None]
    ids = generate(model, prompt, WRITTEN_BYTES, 0.8, Generator().manual_seed(0))[0]
    return text_of(ids).decode("ascii", "replace")


def forgetting(bits: Matrix) -> float:
    return bits[1][0] - bits[0][0]


def gain(bits: Matrix) -> float:
    return bits[0][1] - bits[1][1]


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:  # noqa: ARG001
    ours = [result["upper"][OURS] for result in results]
    lost, won = (mean_and_spread([measure(bits) for bits in ours]) for measure in (forgetting, gain))
    claims = [
        _claim("forgetting_bpc", "After UPPER CASE, other text is read nearly as before", lost, "at_most", 0.12),
        _claim("gain_bpc", "UPPER CASE is learned", won, "at_least", 3.5),
    ]
    tables = {
        f"{shift}: bits per character": report.table(HEADINGS, [(m, *_means(results, shift, m)) for m in methods])
        + f"<p>It then writes:</p><pre>{html.escape(results[0][shift]['writes'])}</pre>"
        for shift, methods in SHIFTS.items()
    }
    picture = report.picture(bars(results), "forgetting and gain of each method, for both kinds of new text")
    figures = {"seeds": list(results), "setting": SETTING}
    return Part(NAME, claims, figures, {"what is lost and what is won": picture} | tables)


def bars(results: Sequence[dict[str, Any]]) -> Figure:
    """What each method loses and wins, with the spread over seeds."""
    figure = Figure(figsize=(8.5, 3.4))
    for axes, (shift, methods) in zip(figure.subplots(1, 2, width_ratios=(2, 1)), SHIFTS.items(), strict=True):
        for offset, measure, colour, name in ((-0.2, forgetting, "#c0592b", "lost"), (0.2, gain, "#12715b", "won")):
            spreads = [mean_and_spread([measure(result[shift][method]) for result in results]) for method in methods]
            places = [place + offset for place in range(len(methods))]
            heights = [mean for mean, _, _ in spreads]
            reach = [high - mean for mean, _, high in spreads]
            shown = axes.bar(places, heights, 0.38, yerr=reach, color=colour, label=name, error_kw={"lw": 1})
            axes.bar_label(shown, fmt="%.2f", fontsize=7, padding=2)
        axes.set_xticks(range(len(methods)), methods, fontsize=8)
        axes.set(title=shift, ylabel="bits per character")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def _means(results: Sequence[dict[str, Any]], shift: str, method: str) -> list[float]:
    matrices = [result[shift][method] for result in results]
    before, after = np.mean(matrices, axis=0)
    return [before[0], after[0], after[0] - before[0], before[1], after[1], before[1] - after[1]]


def _claim(name: str, statement: str, spread: tuple[float, float, float], way: Any, target: float) -> Claim:
    mean, low, high = spread
    return Claim(f"continual.{NAME}.{name}", statement, mean, "bits per character", way, target, low, high)
