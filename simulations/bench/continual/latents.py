"""Claim: where only the upper blocks carry adapters, training on cached latents takes about half the work.

MiniLM with LoRA on its top two of six blocks and a head for CLINC150's 150 intents, trained twice in turn on the same
batches from the same start: through the whole encoder, and from what the four frozen blocks made of each query once.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from learning_core.models.encoder import batch_of, token_mean
from learning_core.models.encoder_split import split, upper_projections
from learning_core.models.peft_door import Plan, adapted
from learning_core.models.weights import read, write
from learning_core.training.fitting import Budget, FitState, Loss, Recipe, fit, start_state
from learning_core.training.latents import (
    Answer,
    Batching,
    cached,
    expected_step_ratio,
    label_loss,
    worth_caching_after,
)
from simulations.bench.continual.data_clinc import load, minilm
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.report import Claim, table

NAME = "latents"
NEEDS_DATA = True
BELOW, RANK, PAIRS, STEPS_PER_PAIR = 4, 8, 40, 5
TRAINED_ON, TESTED_ON = 3000, 1500
SHARPNESS = 16.0  # of logits on embeddings of unit length
SETTING: dict[str, Any] = {
    "below": BELOW,
    "rank": RANK,
    "pairs": PAIRS,
    "steps_per_pair": STEPS_PER_PAIR,
    "queries": [TRAINED_ON, TESTED_ON],
    "version": 1,
}


Labels = NDArray[np.int64]


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    """Step times in interleaved pairs, and what both ways have learned in the end."""
    if data is None:
        raise ValueError("this part needs its data")
    clinc, encoder = load(data), minilm()
    rng = np.random.default_rng((64, seed))
    chosen = {"train": rng.permutation(15000)[:TRAINED_ON], "test": rng.permutation(4500)[:TESTED_ON]}
    tokens = {split: encoder.tokenize([clinc.texts[split][at] for at in rows]) for split, rows in chosen.items()}
    labels = {split: clinc.labels[split][rows] for split, rows in chosen.items()}
    plan = Plan(upper_projections(encoder.module, BELOW), RANK, seed=seed)
    leaves: dict[str, Tensor] = dict(adapted(encoder.module, {"shared": plan}).leaves["shared"])
    leaves["head"] = torch.zeros(384, len(clinc.intents), requires_grad=True)
    trunk, upper = split(encoder.module, BELOW)

    def passed(ids: Tensor, mask: Tensor) -> Tensor:
        return _states(trunk(ids, attention_mask=mask))

    def from_latents(latents: Tensor, mask: Tensor) -> Tensor:
        state = _states(upper(inputs_embeds=latents, attention_mask=mask))
        return SHARPNESS * nn.functional.normalize(token_mean(state, mask), dim=1) @ leaves["head"]

    def from_tokens(ids: Tensor, mask: Tensor) -> Tensor:
        state = _states(encoder.module(ids, attention_mask=mask))
        return SHARPNESS * nn.functional.normalize(token_mean(state, mask), dim=1) @ leaves["head"]

    def padded(split: str) -> Batching:
        return lambda rows: batch_of([tokens[split][at] for at in rows], encoder.padding)

    began = time.process_time()
    stored = cached(passed, tokens["train"], encoder.padding)
    caching_s = time.process_time() - began
    ways = {
        "full": label_loss(padded("train"), labels["train"], from_tokens, _draw),
        "latent": label_loss(stored.batch, labels["train"], from_latents, _draw),
    }
    seconds, ends = _in_turn(leaves, ways, seed)
    accuracies = {}
    for way, state in ends.items():
        write(leaves, state.adapter)
        accuracies[f"{way}_accuracy"] = _accuracy(from_tokens, padded("test"), tokens["test"], labels["test"])
    heavy = [_matrix_weights(half.get_submodule("encoder")) for half in (trunk, upper)]
    steps = {f"{way}_step_s": float(np.median(found)) / STEPS_PER_PAIR for way, found in seconds.items()}
    return (
        accuracies
        | steps
        | {
            "ratios": [latent / full for full, latent in zip(seconds["full"], seconds["latent"], strict=True)],
            "caching_s": caching_s,
            "worth_it_after_steps": worth_caching_after(caching_s, steps["full_step_s"], steps["latent_step_s"]),
            "expected_ratio": expected_step_ratio(*heavy),
            "bytes_per_query": stored.num_bytes / len(stored),
        }
    )


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:
    del peers
    ratios = [float(np.median(result["ratios"])) for result in results]
    mean, low, high = mean_and_spread(ratios)
    words = "CPU seconds of a training step on cached latents, of one through the whole encoder"
    lost = mean_and_spread([result["full_accuracy"] - result["latent_accuracy"] for result in results])
    cost = "what training on them costs in accuracy, after as many steps on the same batches"
    claims = [
        Claim("latent.step_ratio", words, mean, "share", "at_most", 0.55, low, high),
        Claim("latent.accuracy_lost", cost, lost[0], "share", "at_most", 0.005, lost[1], lost[2]),
    ]
    averages = {key: float(np.mean([result[key] for result in results])) for key in results[0] if key != "ratios"}
    steps = PAIRS * STEPS_PER_PAIR
    rows: list[Sequence[object]] = [
        ("CPU milliseconds a step, whole encoder", 1e3 * averages["full_step_s"]),
        ("CPU milliseconds a step, cached latents", 1e3 * averages["latent_step_s"]),
        ("ratio expected from the numbers of weights", averages["expected_ratio"]),
        ("CPU seconds to cache 3,000 queries once", averages["caching_s"]),
        ("steps after which caching has paid", averages["worth_it_after_steps"]),
        ("bytes a query, float16", averages["bytes_per_query"]),
        (f"accuracy after {steps} steps, whole encoder", averages["full_accuracy"]),
        (f"accuracy after {steps} steps, cached latents", averages["latent_accuracy"]),
    ]
    figures = {"median_ratios": ratios, "seeds": list(results), **averages}
    return Part(NAME, claims, figures, {"the same training, twice": table(("figure", "value"), rows)})


def _in_turn(
    leaves: Mapping[str, Tensor], ways: Mapping[str, Loss], seed: int
) -> tuple[dict[str, list[float]], dict[str, FitState]]:
    """Train both ways from one start, a few steps of each in turn, so that neighbours disturb both alike."""
    recipe = Recipe(steps=PAIRS * STEPS_PER_PAIR, learning_rate=5e-3, seed=seed)
    start = start_state(read(leaves))
    states, seconds = dict.fromkeys(ways, start), {way: list[float]() for way in ways}
    for pair in range(PAIRS):
        for way in list(ways)[:: 1 if pair % 2 else -1]:
            began = time.process_time()
            states[way], _ = fit(leaves, ways[way], recipe, states[way], Budget(STEPS_PER_PAIR))
            seconds[way].append(time.process_time() - began)
    return seconds, states


def _draw(generator: Generator) -> Labels:
    return torch.randint(TRAINED_ON, (Recipe().batch,), generator=generator).numpy()


@torch.no_grad()
def _accuracy(answer: Answer, batch: Batching, tokens: Sequence[Sequence[int]], labels: Labels) -> float:
    order = np.array(sorted(range(len(tokens)), key=lambda at: len(tokens[at])))
    right = 0
    for rows in np.split(order, range(64, len(order), 64)):
        right += int((answer(*batch(rows)).argmax(dim=1).numpy() == labels[rows]).sum())
    return right / len(labels)


def _matrix_weights(module: nn.Module) -> int:
    return sum(int(value.numel()) for value in module.parameters() if value.ndim == 2)


def _states(output: Any) -> Tensor:
    found: Tensor = output.last_hidden_state
    return found
