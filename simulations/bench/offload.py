"""What a fog can learn from samples that were noised on the device, and what such samples cost in privacy.

A device has some dozens of digits 5-9, the base draws 0-4. The same fit is run on the samples as they are (raw offload,
or the device itself) and on what the device would send, for several amounts of noise. The price stands beside it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from cloud_server.drivers.digits import load_digits, parted
from edge_agent.config import Offload
from edge_agent.offload import MOST_NOISE
from learning_core.federation.accountant import epsilon
from learning_core.federation.local_noise import cost, noise_deviation, noised
from learning_core.params import Params, zeros
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe, start_state
from learning_core.training.flow_images import fit_flow
from learning_core.training.flow_latents import fit_flow_latents
from simulations import report
from simulations.fleet import Base, judged, learned_base
from simulations.report import Claim

OLD, NEW = range(5), range(5, 10)
NOISES = (0.05, 0.1, 0.14, 0.25, 0.5, 3.0)
TAUGHT = 0.1  # of the most noise that still teaches
STEPS, GUIDANCE, IMAGES, DELTA = 120, 1.5, 40, 1e-5


def measure(
    base: Base, news: Batch, samples: int, seeds: Sequence[int], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row for each seed and amount of noise; noise 0 is raw samples."""
    clip_norm, rows = Offload().clip_norm, []
    for seed in seeds:
        rng = np.random.default_rng([seed, 5])
        chosen = rng.permutation(len(news))[:samples]
        mine = Batch(news.features[chosen], news.conditions[chosen])
        recipe = Recipe(steps=STEPS, seed=seed)
        for noise in (0.0, *NOISES):
            began, start = time.monotonic(), start_state(zeros(base.shapes))
            if noise:
                sent = noised(mine, base.config.num_conditions, clip_norm, noise, rng)
                deviation = noise_deviation(clip_norm, noise)
                state, _ = fit_flow_latents(base.student(), sent, deviation, base.known, recipe, start, STEPS)
            else:
                sent = mine
                state, _ = fit_flow(base.student(), mine, base.known, recipe, start, STEPS)
            labels = float((sent.conditions == mine.conditions).mean())
            rows.append(
                {"seed": seed, "noise_multiplier": noise, "right_labels": labels, **_quality(base, state.adapter, seed)}
            )
            progress(f"seed {seed}, noise {noise:g}: new {rows[-1]['new']:.3f} ({time.monotonic() - began:.0f} s)")
    return rows


def prices(samples: int) -> list[dict[str, float]]:
    """Epsilon at delta 1e-5 of each amount of noise: of one sample, and of all the device sent."""
    clip_norm = Offload().clip_norm
    return [
        {
            "noise_multiplier": noise,
            "deviation": noise_deviation(clip_norm, noise),
            "epsilon_of_a_sample": epsilon([cost(1, noise)], DELTA),
            "epsilon_of_the_device": epsilon([cost(samples, noise)], DELTA),
        }
        for noise in NOISES
    ]


def claims(rows: Sequence[Mapping[str, Any]], before: float) -> list[Claim]:
    """`before`: how well the base draws the new classes."""
    clip_norm = Offload().clip_norm

    def gain(noise: float) -> list[float]:
        return [row["new"] - before for row in rows if row["noise_multiplier"] == noise]

    def claim(name: str, statement: str, found: Sequence[float], direction: Any, target: float) -> Claim:
        return Claim(
            f"offload.{name}", statement, float(np.mean(found)), "share", direction, target, min(found), max(found)
        )

    allowed = [noise for noise in NOISES if noise_deviation(clip_norm, noise) <= MOST_NOISE["flow_image"]]
    usual = Offload().noise_multiplier
    least = f"the most noise a device sends under (multiplier {max(allowed):g}) still teaches new classes"
    return [
        claim("raw_gain", "raw samples teach the fog's copy the new classes", gain(0.0), "at_least", 0.5),
        claim("least_gain", least, gain(max(allowed)), "at_least", TAUGHT),
        claim(
            "private_gain", f"noise that protects (multiplier {usual:g}) teaches nothing", gain(usual), "at_most", 0.05
        ),
    ]


def run(out: Path, samples: int, seeds: int, *, as_json: bool = False) -> None:
    """Train a base, fit it on each kind of samples, and write the report."""
    console = Console(stderr=True, quiet=as_json)
    torch.set_num_threads(1)
    train, held_out = parted(load_digits(), 0, 0.2)
    with console.status("the base learns 0-4"):
        base = learned_base(train, held_out, OLD, 10, 400, 0)
    mine = np.isin(train.conditions, NEW)
    news = Batch(train.features[mine], train.conditions[mine])
    before = _quality(base, zeros(base.shapes), 0)
    rows = measure(base, news, samples, range(seeds), console.print)
    found, price = claims(rows, before["new"]), prices(samples)
    figures = {"samples": samples, "before": before, "rows": rows, "prices": price, "simulated": True}
    content = report.document(found, figures, {}, range(seeds))
    report.write(out, content, _page(found, rows, price, samples))
    report.show(found, out, content, as_json=as_json)


def _quality(base: Base, adapter: Params, seed: int) -> dict[str, float]:
    quality = judged(base, adapter, IMAGES, GUIDANCE, seed)
    return {"new": quality.mean(NEW), "old": quality.mean(OLD), "kid": quality.kid}


def _page(
    found: Sequence[Claim], rows: Sequence[Mapping[str, Any]], price: Sequence[Mapping[str, float]], samples: int
) -> str:
    lead = (
        f"<p>A <b>simulated</b> device with {samples} real digits of 5-9; the base draws 0-4. Fidelity is the share of "
        "drawn images that a judge takes for the class asked for.</p>"
    )
    learned = [tuple(row.values()) for row in rows]
    sections = {
        "Claims": report.claims_table(found),
        "What was learned": report.table(tuple(rows[0]), learned),
        "What it costs": report.table(tuple(price[0]), [tuple(row.values()) for row in price]),
    }
    return report.page("Learning at the fog from noised samples", lead, sections)
