"""MiniLM as a graph in float32 and in integers: how often both give one answer to CLINC150's queries, and how fast.

The analytic head is solved on what torch makes of the training queries and asked with what either graph makes of the
test queries, as a device would ask it. Times are of pairs in turn, in CPU seconds of one thread. Figures, no claims.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from learning_core.methods.analytic import centred_units, relu_features, ridge, statistics_of
from learning_core.models.encoder import Encoder, batch_of, word_and_meaning
from learning_core.models.encoder_graph import build_of, linear_layers
from learning_core.models.encoder_onnx import export_encoder, export_int8_encoder
from learning_core.models.onnx_export import Feed
from learning_core.models.peft_door import Plan, start_factors
from learning_core.params import Array, Params
from learning_core.training.encoder_head import PIECES, STRENGTH
from simulations.bench.continual.data_clinc import CACHE, embeddings, load, minilm
from simulations.bench.continual.part import Part, mean_and_spread
from simulations.report import table

NAME = "encoder_int8"
NEEDS_DATA = True
ASKED, AT_ONCE, PAIRS = 600, 16, 40  # queries, in a batch, pairs timed for each size of batch
RANK = 8
FEATURES = 2048  # of the head, half as many as its default: what is compared is what it is asked with
CHANGE = 0.02  # of the random B
UNDER = "int8 under an adapter"
SETTING: dict[str, Any] = {
    "asked": ASKED,
    "at_once": AT_ONCE,
    "pairs": PAIRS,
    "rank": RANK,
    "features": FEATURES,
    "change": CHANGE,
}

Answer = Callable[[Feed], list[Array]]
Tokens = Sequence[Sequence[int]]


def run_seed(seed: int, data: Path | None) -> dict[str, Any]:
    """Other queries and other random features for each seed."""
    if data is None:
        raise ValueError("this part needs its data")
    clinc, raw, encoder = load(data), embeddings(data, CACHE, word_and_meaning), minilm()
    rng = np.random.default_rng((8, seed))
    asked = rng.permutation(len(clinc.texts["test"]))[:ASKED]
    plan = Plan(linear_layers(build_of(encoder.module)), RANK)
    exports = {"float32": export_encoder, "int8": export_int8_encoder}
    models = {kind: export(encoder, plan, clinc.texts["val"], by_runtime) for kind, export in exports.items()}
    graphs = {kind: opened(model) for kind, model in models.items()}
    tokens = encoder.tokenize([clinc.texts["test"][at] for at in asked])
    found = {kind: embedded(graph, encoder, tokens) for kind, graph in graphs.items()}
    factors = some_adapter(encoder, plan, rng)
    changed = {kind: embedded(graph, encoder, tokens, factors)[1] for kind, graph in graphs.items()}

    centre = raw["oos_train"].mean(axis=0)
    lift = relu_features(len(centre), FEATURES, seed)
    train = lift(centred_units(raw["train"], centre, PIECES))
    head = ridge(statistics_of(train, clinc.labels["train"], len(clinc.intents)), STRENGTH)
    rows = {kind: side_by_side for kind, (_, side_by_side) in found.items()} | {"torch": raw["test"][asked]}
    rows |= {f"{kind} under an adapter": side_by_side for kind, side_by_side in changed.items()}
    answers = {kind: head.logits(lift(centred_units(x, centre, PIECES))).argmax(axis=1) for kind, x in rows.items()}
    wanted = clinc.labels["test"][asked]
    cosines = (found["float32"][0] * found["int8"][0]).sum(axis=1)
    return {
        "bytes": {kind: len(model) for kind, model in models.items()},
        "accuracy": {kind: float((answer == wanted).mean()) for kind, answer in answers.items()},
        "agreement": {kind: float((answers[kind] == answers["torch"]).mean()) for kind in graphs}
        | {UNDER: float((answers[UNDER] == answers["float32 under an adapter"]).mean())},
        "cosine": [float(cosines.mean()), float(cosines.min())],
        "alone": in_turn(graphs, encoder, [[row] for row in tokens[:PAIRS]]),
        "together": in_turn(graphs, encoder, [tokens[at : at + AT_ONCE] for at in range(PAIRS // 2)]),
    }


def opened(model: bytes) -> Answer:
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, dict(feed)))


def by_runtime(model: bytes, feed: Feed) -> list[Array]:
    return opened(model)(feed)


def some_adapter(encoder: Encoder, plan: Plan, rng: np.random.Generator) -> Params:
    """Random factors that change each layer by about a fifteenth, as an adapter that has learned something does."""
    start = start_factors(encoder.module, plan)
    drawn = {name: rng.normal(0, CHANGE, value.shape).astype(np.float32) for name, value in start.items()}
    return {name: value if name.endswith("lora_A") else drawn[name] for name, value in start.items()}


def embedded(graph: Answer, encoder: Encoder, tokens: Tokens, adapter: Params | None = None) -> tuple[Array, Array]:
    """Both poolings of all queries, one at a time as a device asks: the range integers cover is each query's own."""
    one, other = zip(*(graph({**feed_of(encoder, [row]), **(adapter or {})}) for row in tokens), strict=True)
    return np.concatenate(one), np.concatenate(other)


def in_turn(graphs: Mapping[str, Answer], encoder: Encoder, batches: Sequence[Tokens]) -> dict[str, Any]:
    """CPU seconds of a batch for each graph, and their ratio batch by batch."""
    seconds: dict[str, list[float]] = {kind: [] for kind in graphs}
    for number, batch in enumerate(batches):
        feed = feed_of(encoder, batch)
        for kind in list(graphs)[:: 1 if number % 2 else -1]:
            graphs[kind](feed)  # the caches belong to the graph that is timed
            began = time.process_time()
            graphs[kind](feed)
            seconds[kind].append(time.process_time() - began)
    ratios: NDArray[np.float64] = np.array(seconds["float32"]) / np.array(seconds["int8"])
    return {kind: float(np.median(found)) for kind, found in seconds.items()} | {
        "times_as_fast": float(np.median(ratios))
    }


def feed_of(encoder: Encoder, tokens: Tokens) -> Feed:
    ids, mask = batch_of(tokens, encoder.padding)
    return {"ids": ids.numpy(), "mask": mask.numpy()}


def summarise(results: Sequence[dict[str, Any]], peers: dict[str, Any] | None) -> Part:
    del peers

    def over_seeds(of: Callable[[dict[str, Any]], float]) -> tuple[float, float, float]:
        return mean_and_spread([of(result) for result in results])

    spreads = {
        "answers as torch's, float32 graph": over_seeds(lambda result: result["agreement"]["float32"]),
        "answers as torch's, int8 graph": over_seeds(lambda result: result["agreement"]["int8"]),
        "answers as the float32 graph's, int8 graph, both under an adapter": over_seeds(
            lambda result: result["agreement"][UNDER]
        ),
        "accuracy, torch": over_seeds(lambda result: result["accuracy"]["torch"]),
        "accuracy, float32 graph": over_seeds(lambda result: result["accuracy"]["float32"]),
        "accuracy, int8 graph": over_seeds(lambda result: result["accuracy"]["int8"]),
        "cosine between the two graphs' embeddings, mean": over_seeds(lambda result: result["cosine"][0]),
        "times as fast in integers, one query": over_seeds(lambda result: result["alone"]["times_as_fast"]),
        f"times as fast in integers, {AT_ONCE} queries": over_seeds(lambda result: result["together"]["times_as_fast"]),
        "CPU milliseconds, one query, float32": over_seeds(lambda result: 1e3 * result["alone"]["float32"]),
        "CPU milliseconds, one query, int8": over_seeds(lambda result: 1e3 * result["alone"]["int8"]),
    }
    sizes = {f"megabytes, {kind}": size / 1e6 for kind, size in results[0]["bytes"].items()}
    rows: list[Sequence[object]] = [
        (name, f"{mean:.3f} ({low:.3f} to {high:.3f})") for name, (mean, low, high) in spreads.items()
    ]
    rows += [(name, f"{size:.1f}") for name, size in sizes.items()]
    figures = {"per_seed": list(results), "spreads": spreads}
    return Part(NAME, [], figures, {"one encoder, two graphs": table(("figure", "value"), rows)})
