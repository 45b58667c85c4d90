"""Claim: 150 intents in ten increments, whatever their order, are learned as well as all at once.

CLINC150, ten domains of fifteen intents one after another, one head, no task identity at test time. Frozen MiniLM,
the means of its last three layers and of its word vectors, random ReLU features and the analytic head: one pass over
the data, and nothing is stored but sums.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from learning_core.federation.accountant import Spending, epsilon
from learning_core.methods.analytic import (
    Statistics,
    bounded_statistics,
    centred_units,
    noised,
    on_grid,
    relu_features,
    ridge,
    statistics_of,
    total,
)
from learning_core.metrics.calibration import best_temperature, expected_calibration_error
from learning_core.metrics.stages import average_accuracy, average_incremental_accuracy, backward_transfer, forgetting
from learning_core.models.encoder import word_and_meaning
from learning_core.params import Array
from learning_core.training.encoder_head import FEATURES, PIECES, STRENGTH
from simulations.bench.continual import clinc_adapters
from simulations.bench.continual.clinc_heads import by_class_means, one_after_another, rows_of, together
from simulations.bench.continual.data_clinc import CACHE, Clinc, embeddings, load
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.report import Claim, picture, table

NAME = "clinc"
NEEDS_DATA = True
NODES, CONCENTRATION = 10, 0.2
NOISE, PRIVATE_STRENGTH, TARGET_DELTA = 1.0, 3.0, 1e-5
TUNED_SEEDS = 1  # training adapters takes eight minutes a seed, and nothing is claimed of it
SETTING: dict[str, Any] = {
    "features": FEATURES,
    "strength": STRENGTH,
    "pieces": PIECES,
    "nodes": NODES,
    "concentration": CONCENTRATION,
    "noise": [NOISE, PRIVATE_STRENGTH],
    "adapters": [TUNED_SEEDS, *clinc_adapters.SETTING],
    "version": 3,
}
METHODS = {
    "analytic": "analytic head, three layers and words, 4096 random features",
    "joint_head": "linear head on the embeddings, all tasks at once (bound)",
    "joint_adapters": "adapters on two blocks and a linear head, all tasks at once (bound)",
    "der_adapters": "such adapters, one task after another, DER++ with 20 stored latents a class",
    "der": "linear head, DER++ with 10 stored latents a class",
    "means": "nearest class mean",
    "naive": "linear head, one task after another (bound)",
}

Labels = NDArray[np.int64]


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    """One order of the domains, with random features, trained heads and nodes of its own."""
    if data is None:
        raise ValueError("this part needs its data")
    clinc, raw = load(data), embeddings(data, CACHE, word_and_meaning)
    rng = np.random.default_rng((150, seed))
    tasks = [list(clinc.domains.values())[domain] for domain in rng.permutation(len(clinc.domains))]
    began = time.process_time()
    result = analytic(clinc, raw, tasks, seed)
    result["analytic_cpu_s"] = time.process_time() - began
    width = raw["train"].shape[1] // PIECES
    units = {split: _unit(rows[:, :width]) for split, rows in raw.items()}  # of the last layer: plain embeddings
    result |= trained_heads(clinc, units, tasks, seed) | private(clinc, units, seed)
    return result | (trained_adapters(clinc, tasks, seed) if seed < TUNED_SEEDS else {})


def analytic(clinc: Clinc, raw: Mapping[str, Array], tasks: Sequence[Sequence[int]], seed: int) -> dict[str, Any]:
    """The analytic head after each task, and the same from ten nodes' sums."""
    centre = raw["oos_train"].mean(axis=0)  # a hundred public queries that belong to no task
    x = {split: centred_units(raw[split], centre, PIECES) for split in ("train", "val", "test")}
    lift = relu_features(x["train"].shape[1], FEATURES, seed)
    wanted, test = clinc.labels["test"], lift(x["test"])

    def sums(chosen: NDArray[np.bool_]) -> Statistics:
        return statistics_of(lift(x["train"][chosen]), clinc.labels["train"][chosen], len(clinc.intents))

    learned, answers = None, list[Labels]()
    for intents in tasks:
        part = sums(np.isin(clinc.labels["train"], intents))
        learned = part if learned is None else learned.plus(part)
        answers.append(ridge(learned, STRENGTH).logits(test).argmax(axis=1))
    if learned is None:
        raise ValueError("there are no tasks")
    owners = node_of_each(clinc.labels["train"], np.random.default_rng((10, seed)))
    federated = total(sums(owners == node) for node in range(NODES))
    head = ridge(federated, STRENGTH)
    logits = head.logits(test)
    temperature = best_temperature(head.logits(lift(x["val"])), clinc.labels["val"])
    shares = np.bincount(owners, minlength=NODES)
    return {
        "analytic": matrix(answers, wanted, tasks),
        "federated_accuracy": float((logits.argmax(axis=1) == wanted).mean()),
        "federated_same_bits": bool(
            np.array_equal(federated.gram, learned.gram) and np.array_equal(federated.cross, learned.cross)
        ),
        "samples_per_node": [int(shares.min()), int(shares.max())],
        "memory_bytes": learned.num_bytes,
        "message_bytes": learned.message_bytes,
        "calibration_error": expected_calibration_error(logits, wanted, temperature),
        "calibration_error_raw": expected_calibration_error(logits, wanted),
    }


def trained_heads(
    clinc: Clinc, units: Mapping[str, Array], tasks: Sequence[Sequence[int]], seed: int
) -> dict[str, Any]:
    labels, wanted = clinc.labels["train"], clinc.labels["test"]
    parts = [np.isin(labels, intents) for intents in tasks]
    rows = [rows_of(units["train"][part], labels[part]) for part in parts]
    test, classes = rows_of(units["test"], wanted).x, len(clinc.intents)
    return {
        "naive": matrix(one_after_another(rows, test, classes, seed, replay=False), wanted, tasks),
        "der": matrix(one_after_another(rows, test, classes, seed, replay=True), wanted, tasks),
        "means": matrix(by_class_means(rows, test), wanted, tasks),
        "joint_head_accuracy": float((together(rows, test, classes, seed) == wanted).mean()),
    }


def trained_adapters(clinc: Clinc, tasks: Sequence[Sequence[int]], seed: int) -> dict[str, Any]:
    """What gradients reach with adapters in the upper blocks: on all tasks at once, and one by one."""
    latents, wanted, began = clinc_adapters.latents_of(clinc), clinc.labels["test"], time.process_time()
    stages = clinc_adapters.one_after_another(clinc, latents, tasks, seed)
    tuned = clinc_adapters.together(clinc, latents, seed)
    answers, took = clinc_adapters.answers_of(tuned, latents["test"]), time.process_time() - began
    return {
        "der_adapters": matrix(stages, wanted, tasks),
        "joint_adapters_accuracy": float((answers == wanted).mean()),
        "adapters_cpu_s": took,
    }


def private(clinc: Clinc, units: Mapping[str, Array], seed: int) -> dict[str, Any]:
    """The head from noised sums of the plain embeddings, which are 1 long and few: noise grows with their number."""
    x = {split: centred_units(units[split], units["oos_train"].mean(axis=0)) for split in ("train", "test")}
    bounded = bounded_statistics(on_grid(x["train"]), clinc.labels["train"], len(clinc.intents), 1.0)
    released = noised(bounded, NOISE, np.random.default_rng((1, seed)))
    accuracies = {
        name: float(
            (ridge(sums, PRIVATE_STRENGTH).logits(on_grid(x["test"])).argmax(axis=1) == clinc.labels["test"]).mean()
        )
        for name, sums in {"private_accuracy": released.sums, "plain_accuracy": bounded.sums}.items()
    }
    spent = epsilon([Spending(released.noise_multiplier, 1.0, 1)], TARGET_DELTA)
    return accuracies | {"private_epsilon": spent}


def node_of_each(labels: Labels, rng: np.random.Generator) -> Labels:
    """Which node owns each sample: every class is spread by a Dirichlet draw, so most nodes hold few classes."""
    owners = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mine = labels == label
        owners[mine] = rng.choice(NODES, mine.sum(), p=rng.dirichlet(np.full(NODES, CONCENTRATION)))
    return owners


def matrix(answers: Sequence[Labels], wanted: Labels, tasks: Sequence[Sequence[int]]) -> list[list[float]]:
    """R: accuracy on each task, in the order they came, after each; before the first one nothing is answered."""
    right = [[float((stage == wanted)[np.isin(wanted, task)].mean()) for task in tasks] for stage in answers]
    return [[0.0] * len(tasks), *right]


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:
    del peers  # the published ones use other encoders and cannot be run here
    matrices = {
        name: [np.array(result[name]) for result in results if name in result]
        for name in ("analytic", "der_adapters", "der", "means", "naive")
    }
    matrices = {name: found for name, found in matrices.items() if found}
    accuracy = [average_accuracy(r) for r in matrices["analytic"]]
    lost = [forgetting(r) for r in matrices["analytic"]]
    gap = [abs(result["federated_accuracy"] - last) for result, last in zip(results, accuracy, strict=True)]
    claims = [
        _claim("accuracy", "intents told apart after ten domains", accuracy, "at_least", 0.954),
        _claim("forgetting", "fall from a domain's best earlier stage to the last, mean", lost, "at_most", 0.009),
        _claim("federated_gap", "ten nodes' sums against one's", gap, "at_most", 0.001),
    ]
    rows: list[Sequence[object]] = []
    for name, words in METHODS.items():
        if name in matrices:
            measures = average_accuracy, forgetting, average_incremental_accuracy
            rows.append((words, len(matrices[name]), *(shown([f(r) for r in matrices[name]]) for f in measures)))
        elif finals := [result[f"{name}_accuracy"] for result in results if f"{name}_accuracy" in result]:
            rows.append((words, len(finals), shown(finals), "-", "-"))
    figures: dict[str, Any] = {
        "matrices": {name: [r.tolist() for r in found] for name, found in matrices.items()},
        "backward_transfer": [backward_transfer(r) for r in matrices["analytic"]],
        **{key: [result[key] for result in results if key in result] for key in results[0] if key not in matrices},
    }
    lead = (
        "<p>The interval is over orders, random features and nodes; the 4,500 test queries alone leave a standard "
        "error of 0.3 points. The sums are the same to the bit in any order and from any nodes.</p>"
    )
    headings = ("method", "seeds", "final accuracy", "forgetting", "mean over stages")
    first = results[0]
    costs = table(
        ("figure", "value"),
        [
            ("what a node holds, MB", first["memory_bytes"] / 1e6),
            ("what a node sends once, MB", first["message_bytes"] / 1e6),
            ("CPU seconds for ten tasks, ten nodes and eleven solutions", float(np.mean(figures["analytic_cpu_s"]))),
            (
                "calibration error (15 bins), temperature from held-out queries",
                float(np.mean(figures["calibration_error"])),
            ),
            (
                f"accuracy from noised sums of 384 features, epsilon {first['private_epsilon']:.2f}",
                float(np.mean(figures["private_accuracy"])),
            ),
            ("the same without noise", float(np.mean(figures["plain_accuracy"]))),
        ],
    )
    picture_of = picture(stages(matrices), "Accuracy over the domains seen so far, by method and stage")
    return Part(
        NAME, claims, figures, {"ten domains, one head": lead + picture_of + table(headings, rows), "cost": costs}
    )


def shown(values: Sequence[float]) -> str:
    mean, low, high = mean_and_spread(values)
    return f"{mean:.4f} ({low:.4f} to {high:.4f})" if len(values) > 1 else f"{mean:.4f}"


def stages(matrices: Mapping[str, Sequence[NDArray[np.float64]]]) -> Figure:
    figure = Figure(figsize=(9, 3.6))
    curves, heat = figure.subplots(1, 2, width_ratios=(1.2, 1))
    for name, found in matrices.items():
        means = [np.mean([r[stage, :stage].mean() for r in found]) for stage in range(1, len(found[0]))]
        curves.plot(range(1, len(found[0])), means, marker=".", label=METHODS[name].split(",")[0])
    curves.set(xlabel="domains learned", ylabel="accuracy on them", ylim=(0, 1.02))
    curves.legend(fontsize=8)
    shown = heat.imshow(np.mean(matrices["analytic"], axis=0)[1:], vmin=0.8, vmax=1)
    heat.set(xlabel="domain", ylabel="after learning", title="R of the analytic head, mean")
    figure.colorbar(shown, ax=heat)
    return figure


def _claim(name: str, words: str, values: Sequence[float], direction: Any, target: float) -> Claim:
    mean, low, high = mean_and_spread(values)
    return Claim(f"continual.clinc.{name}", words, mean, "share", direction, target, low, high)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
