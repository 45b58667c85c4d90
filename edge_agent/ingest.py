"""A sample's way into memory: embedded, judged against what is kept, stored with its file's name or not at all."""

import logging
from collections import Counter

import numpy as np

from edge_agent.ports import Memory, Release, Source
from edge_agent.values import Arrival, Ingested, NewSample
from learning_core.errors import Malformed
from learning_core.memory.keep_budget import Threshold
from learning_core.memory.novelty import Kept, Rule, judge
from learning_core.params import Array

log = logging.getLogger(__name__)
EMBED_AT_ONCE = 16  # small enough that a request never waits long behind it


def judge_all(
    arrival: Arrival, embeddings: Array, kept: Kept, threshold: Threshold, rule: Rule, rng: np.random.Generator
) -> Ingested:
    """What a file of samples changes. embeddings: [N, d], one for each of its samples."""
    new, reasons = [], Counter[str]()
    for index, embedding in enumerate(embeddings):
        condition = int(arrival.batch.conditions[index])
        judgement, threshold = judge(embedding, condition, kept, threshold, rule)
        reasons[judgement.why] += 1
        if judgement.keep:
            kept = kept.plus(embedding, condition)
            taken_at_s, rank = int(arrival.taken_at_s[index]), float(rng.random())
            new.append(NewSample(arrival.batch.features[index], embedding, condition, taken_at_s, rank))
    return Ingested(arrival, new, reasons, threshold)


def take_in(
    source: Source, memory: Memory, release: Release, rule: Rule, max_bytes: int, rng: np.random.Generator
) -> Ingested | None:
    """Take the first waiting file; None when none waits. What breaks off in between is done again, once."""
    if memory.base() != release.digest:
        shape, num_conditions = release.sample_shape, release.manifest.num_conditions
        memory.rebase(release.digest, release.engine.embed, shape, num_conditions)
    for name in source.pending():
        try:
            arrival = source.load(name, release.sample_shape, release.manifest.num_conditions)
        except Malformed as error:
            log.warning("samples refused: %s: %s", name, error)
            source.refuse(name)
            continue
        if arrival is None:
            continue
        ingested = None
        if not memory.knows(name, arrival.digest):
            embeddings = embed_in_pieces(release, arrival.batch.features)
            ingested = judge_all(arrival, embeddings, memory.kept(), memory.threshold(), rule, rng)
            memory.store(ingested, max_bytes)
        if source.done(name):
            memory.forget_arrival(name)  # only now, so that a kill in between finds the name and takes nothing twice
        if ingested is not None:
            return ingested
    return None


def embed_in_pieces(release: Release, features: Array) -> Array:
    pieces = range(0, len(features), EMBED_AT_ONCE)
    return np.concatenate([release.engine.embed(features[start : start + EMBED_AT_ONCE]) for start in pieces])
