"""Claim: devices that learn new classes keep the old ones, with nothing old stored; without rehearsal they do not.

Class-incremental image generation on scikit-learn's digits: the base knows 0-4, the devices see 5-9, each its own mix.
The devices are simulated; the ClientApp, the codecs, the clipping, the noise and the accountant are the tiers' own.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from rich.console import Console

from cloud_server.drivers.digits import load_digits, parted
from learning_core import params
from learning_core.federation.accountant import Spending, epsilon
from learning_core.federation.privacy import accumulate, noisy_mean
from learning_core.params import Params
from learning_core.samples import Batch
from learning_core.training.fitting import Recipe
from learning_core.updates import ModelVersion
from protos.flower_records import Declined, TrainRequest, decode_train_reply, encode_train_request
from simulations import report
from simulations.fleet import Base, Quality, SimulatedDevice, judged, learned_base
from simulations.report import Claim
from simulations.streams import drawn_devices

OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
GUIDANCE = 1.5
EXACT = 5  # times as many images decide a claim as show the way there
Ask = Callable[[str, Mapping[int, RecordDict]], Mapping[int, RecordDict]]  # kind, payload by device -> reply by device
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """One fleet. `clip_norm` is a whole update's length; `sample_rate` each device's chance to be asked in a round."""

    devices: int = 10
    rounds: int = 5
    sample_rate: float = 1.0
    noise_multiplier: float = 0.0
    clip_norm: float = 10.0
    local_steps: int = 60
    samples_per_device: int = 60
    concentration: float = 0.5
    base_steps: int = 400
    images_per_condition: int = 40  # after a round; EXACT times as many at both ends
    naive: bool = True  # also run the peer without rehearsal
    seed: int = 0

    @property
    def target_delta(self) -> float:
        return min(1e-3, 0.1 / self.devices)

    def recipe(self) -> Recipe:
        return Recipe(steps=self.local_steps, seed=self.seed)


def federate(ask: Ask, base: Base, setting: Setting, on_round: Callable[[int, Params], None]) -> None:
    """Poisson sampling, local learning, clipping, a noised mean over the expected cohort; `on_round` sees each."""
    rng = np.random.default_rng([setting.seed, 2])
    shared: Params = params.zeros(base.shapes)
    for number in range(1, setting.rounds + 1):
        cohort = np.flatnonzero(rng.random(setting.devices) < setting.sample_rate)
        request = TrainRequest(
            "simulated",
            number,
            ModelVersion(1, number - 1),
            shared,
            setting.clip_norm,
            setting.noise_multiplier,
            setting.sample_rate,
            3600.0,
        )
        payload = encode_train_request(request)
        total = None
        for reply in ask("train", {int(device): payload for device in cohort}).values():
            answer = decode_train_reply(reply, base.shapes)
            if not isinstance(answer, Declined):
                total = accumulate(total, answer.update)
        expected = setting.sample_rate * setting.devices
        change = noisy_mean(total, base.shapes, setting.clip_norm, setting.noise_multiplier, expected, rng)
        shared = params.add(shared, change)
        on_round(number, shared)


def play(
    base: Base, fleet: Sequence[Batch], setting: Setting, backend: str, progress: Progress, *, rehearse: bool
) -> list[Quality]:
    """One fleet under Flower's simulation; the quality before the first and after each round."""
    from simulations.flower_simulation import run_devices  # noqa: PLC0415 - Ray is imported only when asked for

    def examine(number: int, adapter: Params) -> Quality:
        images = setting.images_per_condition * (EXACT if number in {0, setting.rounds} else 1)
        return judged(base, adapter, images, GUIDANCE, setting.seed)

    qualities = [examine(0, params.zeros(base.shapes))]

    def on_round(number: int, shared: Params) -> None:
        qualities.append(examine(number, shared))
        quality = qualities[-1]
        kind = "with rehearsal" if rehearse else "without rehearsal"
        progress(f"round {number} {kind}: new {quality.mean(NEW):.3f}, old {quality.mean(OLD):.3f}")

    devices = [SimulatedDevice(samples, base, setting.recipe(), rehearse=rehearse) for samples in fleet]
    run_devices(devices, lambda ask: federate(ask, base, setting, on_round), backend)
    return qualities


def claims(protected: Sequence[Quality], naive: Sequence[Quality], setting: Setting) -> list[Claim]:
    """Computed from the runs; intervals are two standard errors of the judged images, of both ends for a difference."""

    def claim(name: str, statement: str, value: float, shares: Sequence[float], direction: Any, target: float) -> Claim:
        images = len(OLD) * setting.images_per_condition * EXACT
        error = 2 * math.sqrt(sum(max(share * (1 - share), 1 / images) / images for share in shares))
        return Claim(f"forgetting.{name}", statement, value, "share", direction, target, value - error, value + error)

    new, before, after = protected[-1].mean(NEW), protected[0].mean(OLD), protected[-1].mean(OLD)
    found = [
        claim("new_fidelity", "New classes are learned", new, [new], "at_least", 0.9),
        claim("old_drop", "Old classes fall by little", before - after, [before, after], "at_most", 0.02),
    ]
    if naive:
        lost = naive[-1].mean(OLD)
        statement = "Without rehearsal they fall by much"
        found.append(claim("naive_drop", statement, before - lost, [before, lost], "at_least", 0.1))
    return found


def run(out: Path, setting: Setting, backend: str, *, as_json: bool = False) -> None:
    """Train a base, run the fleet with and without rehearsal, and write the report."""
    console = Console(stderr=True, quiet=as_json)
    began = time.monotonic()
    train, held_out = parted(load_digits(), setting.seed, 0.2)
    with console.status("the base learns 0-4"):
        base = learned_base(train, held_out, OLD, 10, setting.base_steps, setting.seed)
    console.print(f"base ready after {time.monotonic() - began:.0f} s; the rest is {setting.devices} simulated devices")
    mine = np.isin(train.conditions, NEW)
    rng = np.random.default_rng([setting.seed, 3])
    fleet = drawn_devices(
        Batch(train.features[mine], train.conditions[mine]),
        setting.devices,
        setting.concentration,
        setting.samples_per_device,
        rng,
    )
    with console.status("the devices learn 5-9"):
        protected = play(base, fleet, setting, backend, console.print, rehearse=True)
        naive = play(base, fleet, setting, backend, console.print, rehearse=False) if setting.naive else []
    spent = epsilon([Spending(setting.noise_multiplier, setting.sample_rate, setting.rounds)], setting.target_delta)
    found = claims(protected, naive, setting)
    figures = {
        "setting": {name: getattr(setting, name) for name in Setting.__slots__},
        "rehearsal": [_row(quality) for quality in protected],
        "naive": [_row(quality) for quality in naive],
        "privacy": {
            "unit": "one device's whole participation (add or remove)",
            "epsilon": spent if math.isfinite(spent) else "none: no noise was added",
            "target_delta": setting.target_delta,
            "clip_norm": setting.clip_norm,
            "noise_multiplier": setting.noise_multiplier,
            "sample_rate": setting.sample_rate,
            "rounds": setting.rounds,
        },
        "seconds": time.monotonic() - began,
        "simulated": True,
    }
    content = report.document(found, figures, {"naive": figures["naive"]}, [setting.seed])
    report.write(out, content, _page(found, protected, naive, figures))
    report.show(found, out, content, as_json=as_json)


def _row(quality: Quality) -> dict[str, Any]:
    return {
        "old": quality.mean(OLD),
        "new": quality.mean(NEW),
        "kid": quality.kid,
        "fidelity": {str(condition): value for condition, value in quality.fidelity.items()},
    }


def _page(found: list[Claim], protected: list[Quality], naive: list[Quality], figures: Mapping[str, Any]) -> str:
    privacy = figures["privacy"]
    lead = (
        f"<p>{figures['setting']['devices']} <b>simulated</b> devices, one process, real digits. The base knows 0-4; "
        f"the devices see 5-9, each its own mix, and store nothing of 0-4.</p>"
        f"<p>Privacy of one device's whole participation: epsilon {privacy['epsilon']} at delta "
        f"{privacy['target_delta']:g} after {privacy['rounds']} rounds.</p>"
    )
    sections = {
        "Claims": report.claims_table(found),
        "Round by round": report.picture(_curves(protected, naive), "fidelity of old and new classes after each round"),
        "Per class, at the end": report.table(
            ("class", "with rehearsal", "without"),
            [
                (condition, protected[-1].fidelity[condition], naive[-1].fidelity[condition] if naive else "not run")
                for condition in sorted(protected[-1].fidelity)
            ],
        ),
    }
    return report.page("Learning new classes, keeping the old ones", lead, sections)


def _curves(protected: list[Quality], naive: list[Quality]) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second to import

    figure = Figure(figsize=(7.5, 3.6))
    axes = figure.subplots()
    for qualities, style, kind in ((protected, "-", "rehearsal"), (naive, "--", "naive"))[: 2 if naive else 1]:
        for conditions, colour, group in ((OLD, "#12715b", "old"), (NEW, "#c0592b", "new")):
            means = [quality.mean(conditions) for quality in qualities]
            axes.plot(range(len(means)), means, style, color=colour, marker="o", ms=4, label=f"{group} classes, {kind}")
    axes.set(xlabel="round", ylabel="class fidelity", ylim=(-0.03, 1.05))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
