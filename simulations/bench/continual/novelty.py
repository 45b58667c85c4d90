"""Which part of a stream is worth learning from, decided sample by sample, and what is like nothing known.

A stream of CLINC150's questions passes once: balanced, or with conditions by Zipf's law and repeats. What each selector
keeps trains the same logistic regression on frozen embeddings. The surprise comes from a ridge regression that learns
from each kept sample at once and from nothing else. scikit-learn's digits, nothing downloaded, run beside it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from learning_core.memory.keep_budget import Threshold
from learning_core.memory.novelty import NOTHING, Rule, judge
from learning_core.memory.surprise import Reader, learn, surprise
from learning_core.params import Array
from simulations.bench.continual import data_clinc
from simulations.bench.continual.novelty_pages import selection_sections
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.bench.continual.unknown_queries import scope_of, scope_section
from simulations.report import Claim

NAME = "novelty"
NEEDS_DATA = True
SHARES = (0.1, 0.3, 0.5)
STRENGTH = 20.0  # of the final classifier's fit (C); the best of 5, 20, 100 on CLINC150's validation split
RULE = Rule(rare_below=2)  # with 150 conditions, the device's four of each would be 40 % of the smallest budget
SETTING: dict[str, Any] = {"shares": SHARES, "strength": STRENGTH, "rule": asdict(RULE)}
TARGETS = {
    "balanced_gap_30": 0.002,
    "zipf_gap_30": 0.0,
    "lead_over_random_10": 0.03,
    "zipf_lead_over_random_10": 0.2,
    "oos_auroc": 0.975,
}

Labels = NDArray[np.int64]
Selector = Callable[[Array, Labels, float], tuple[NDArray[np.bool_], dict[str, int]]]


@dataclass(frozen=True, slots=True)
class Task:
    """Embeddings [N, d] and their labels [N], to learn from and to be examined on."""

    embeddings: Array
    labels: Labels
    test_embeddings: Array
    test_labels: Labels


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    """One order of each stream; without `data` the digits alone. What is out of scope has no order: seed 0 has it."""
    result: dict[str, Any] = {"digits": selections(digits(seed), seed)}
    if data is not None:
        labels, embeddings = data_clinc.load(data).labels, data_clinc.embeddings(data)
        task = Task(embeddings["train"], labels["train"], embeddings["test"], labels["test"])
        result["clinc"] = selections(task, seed)
        if seed == 0:
            classifier = fitted(task.embeddings, task.labels)
            result["scope"] = scope_of(embeddings, labels["train"], classifier.decision_function)
    return result


def selections(task: Task, seed: int) -> dict[str, Any]:
    """Accuracy and share kept by stream, selector and share; all of the stream is `everything`."""
    found: dict[str, Any] = {}
    for name, stream in STREAMS.items():
        order = stream(task.labels, np.random.default_rng(seed))
        embeddings, labels = task.embeddings[order], task.labels[order]
        rows: dict[str, Any] = {kind: {} for kind in (*SELECTORS, "random")}
        for share in SHARES:
            for kind, select in SELECTORS.items():
                began = time.process_time()
                keep, reasons = select(embeddings, labels, share)
                micros = (time.process_time() - began) / len(order) * 1e6
                row = examined(task, embeddings[keep], labels[keep]) | {"kept": float(keep.mean())}
                rows[kind][str(share)] = row | {"reasons": reasons, "microseconds": micros}
            count = round(rows["ours"][str(share)]["kept"] * len(order))
            chosen = np.random.default_rng((seed, count)).choice(len(order), count, replace=False)
            row = examined(task, embeddings[chosen], labels[chosen])
            rows["random"][str(share)] = row | {"kept": count / len(order)}
        found[name] = {"everything": examined(task, embeddings, labels), "selectors": rows}
    return found


def balanced(labels: Labels, rng: np.random.Generator) -> Labels:
    """Every sample once, in random order."""
    return rng.permutation(len(labels))


def zipf(labels: Labels, rng: np.random.Generator) -> Labels:
    """As many draws with repeats, the conditions in random order of frequency 1, 1/2, 1/3, ..."""
    names = rng.permutation(np.unique(labels))
    weights = 1 / np.arange(1, len(names) + 1)
    drawn = rng.choice(names, len(labels), p=weights / weights.sum())
    places = {name: np.flatnonzero(labels == name) for name in names}
    return np.array([rng.choice(places[name]) for name in drawn])


def online(
    embeddings: Array, labels: Labels, share: float, *, ask: bool, rule: Rule
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which samples the filter keeps, [N], and how often for which reason; `ask` a reader for the surprise or not."""
    rule = replace(rule, keep_share=share)
    reader = Reader.ignorant(embeddings.shape[1], int(labels.max()) + 1)
    kept, threshold, reasons = NOTHING, Threshold(), Counter[str]()
    keep = np.zeros(len(labels), bool)
    for index, (embedding, label) in enumerate(zip(embeddings, labels.tolist(), strict=True)):
        doubt = surprise(reader, embedding, label) if ask else None
        judgement, threshold = judge(embedding, label, kept, threshold, rule, doubt)
        reasons[judgement.why.value] += 1
        if judgement.keep:
            keep[index] = True
            kept = kept.plus(embedding, label)
            reader = learn(reader, embedding, label) if ask else reader
    return keep, dict(reasons)


def fitted(embeddings: Array, labels: Labels) -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-4).fit(embeddings, labels)


def examined(task: Task, embeddings: Array, labels: Labels) -> dict[str, Any]:
    return {"accuracy": float(fitted(embeddings, labels).score(task.test_embeddings, task.test_labels))}


def digits(seed: int) -> Task:
    """Images of unit length about their mean, split at random."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    learn_from, test = order[:1300], order[1300:]
    moved = data.data - data.data[learn_from].mean(axis=0)
    rows = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    labels = data.target.astype(np.int64)
    return Task(rows[learn_from], labels[learn_from], rows[test], labels[test])


def summarise(results: Sequence[Mapping[str, Any]], peers: Mapping[str, Any] | None) -> Part:
    del peers  # no peer selects from a stream by a budget
    sections = selection_sections("digits", [result["digits"] for result in results], SHARES)
    claims: list[Claim] = []
    figures: dict[str, Any] = {"per_seed": list(results)}
    if "clinc" in results[0]:
        clinc = [result["clinc"] for result in results]
        claims = selection_claims(clinc)
        scope = results[0]["scope"]
        claims.append(
            Claim(
                "novelty.oos_auroc",
                "questions outside all 150 intents stand out (CLINC150, AUROC, bootstrapped interval)",
                scope["auroc"],
                "share",
                "at_least",
                TARGETS["oos_auroc"],
                *scope["interval"],
            )
        )
        sections = selection_sections("CLINC150", clinc, SHARES) | scope_section(scope) | sections
    return Part(NAME, claims, figures, sections)


def selection_claims(results: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Gap to all of the stream at 30 % kept, and lead over random selection at 10 %."""

    def gap(result: Mapping[str, Any], stream: str) -> float:
        found = result[stream]
        return float(found["everything"]["accuracy"] - found["selectors"]["ours"]["0.3"]["accuracy"])

    def lead(result: Mapping[str, Any], stream: str) -> float:
        rows = result[stream]["selectors"]
        return float(rows["ours"]["0.1"]["accuracy"] - rows["random"]["0.1"]["accuracy"])

    def claim(name: str, stream: str, measure: Callable[[Mapping[str, Any], str], float], text: str) -> Claim:
        mean, low, high = mean_and_spread([measure(result, stream) for result in results])
        direction: Literal["at_most", "at_least"] = "at_most" if measure is gap else "at_least"
        return Claim(f"novelty.{name}", f"{text} (CLINC150)", mean, "share", direction, TARGETS[name], low, high)

    return [
        claim("balanced_gap_30", "balanced", gap, "accuracy lost by keeping 30 % of a balanced stream"),
        claim("zipf_gap_30", "zipf", gap, "accuracy lost by keeping 30 % of a Zipf stream with repeats"),
        claim("lead_over_random_10", "balanced", lead, "lead over random selection at 10 % kept, balanced"),
        claim("zipf_lead_over_random_10", "zipf", lead, "lead over random selection at 10 % kept, Zipf"),
    ]


STREAMS: dict[str, Callable[[Labels, np.random.Generator], Labels]] = {"balanced": balanced, "zipf": zipf}
SELECTORS: dict[str, Selector] = {
    "ours": partial(online, ask=True, rule=RULE),
    "uncertainty": partial(online, ask=True, rule=replace(RULE, duplicate_below=0.0, rare_below=0)),
    "novelty": partial(online, ask=False, rule=RULE),
}
