"""A sample's way into memory: known or new, named if nobody did, embedded, judged against what is kept, and stored.

Everything a file changes is stored with the file's name in one transaction, or not at all; what breaks off in between
is done again, once.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_agent.ports import Memory, Release, Source
from edge_agent.proposing import UNKNOWN, doubt_of, propose
from edge_agent.signs import StreamWatch
from edge_agent.values import Arrival, Ingested, NewSample
from learning_core.errors import Malformed
from learning_core.memory.keep_budget import Threshold
from learning_core.memory.novelty import Kept, Rule, Why, judge
from learning_core.params import Array
from learning_core.samples import Batch

log = logging.getLogger(__name__)
EMBED_AT_ONCE = 16  # small enough that a request never waits long behind it
AGAIN, UNSURE, WANTED = "again", "unsure", "wanted"  # reasons beside those of the novelty filter


@dataclass(frozen=True, slots=True)
class Intake:
    """What a person allows: which samples are kept, in how many bytes, and which proposed conditions are believed."""

    rule: Rule
    max_bytes: int
    min_certainty: float = 0.9
    wanted: frozenset[int] = frozenset()  # conditions of which familiar samples are kept too


@dataclass(frozen=True, slots=True)
class Named:
    """Conditions [N], -1 where even a proposal is not to be believed; certainties [N], nan where one came with it.

    `doubts` by row: why not.
    """

    conditions: NDArray[np.int64]
    certainties: NDArray[np.float64]
    doubts: dict[int, str]


def name_all(arrival: Arrival, release: Release, min_certainty: float) -> Named:
    """Let the judge propose a condition for each sample that has none."""
    conditions = arrival.batch.conditions.copy()
    certainties, doubts = np.full(len(conditions), np.nan), dict[int, str]()
    nameless = np.flatnonzero(conditions == UNKNOWN)
    for start in range(0, len(nameless), EMBED_AT_ONCE):
        rows = nameless[start : start + EMBED_AT_ONCE]
        logits, _ = release.judge.look(arrival.batch.features[rows])
        for row, each in zip(rows.tolist(), logits, strict=True):
            proposal = propose(each)
            if (doubt := doubt_of(proposal, min_certainty)) is not None:
                doubts[row] = doubt
                continue
            conditions[row], certainties[row] = proposal.condition, proposal.certainty
    return Named(conditions, certainties, doubts)


def judge_all(
    arrival: Arrival,
    named: Named,
    embeddings: Array,
    kept: Kept,
    threshold: Threshold,
    intake: Intake,
    rng: np.random.Generator,
    watch: StreamWatch,
) -> Ingested:
    """What a file of samples changes. embeddings: [N, d], one for each of its samples."""
    new, reasons = [], Counter[str]({UNSURE: len(named.doubts)} if named.doubts else {})
    for index, embedding in enumerate(embeddings):
        if index in named.doubts:
            continue
        condition, certainty = int(named.conditions[index]), float(named.certainties[index])
        judgement, threshold = judge(embedding, condition, kept, threshold, intake.rule)
        is_wanted = judgement.why is Why.FAMILIAR and condition in intake.wanted
        keep = judgement.keep or is_wanted
        reasons[WANTED if is_wanted else judgement.why] += 1
        watch.take(embedding, condition, keep)
        if keep:
            kept = kept.plus(embedding, condition)
            taken_at_s, rank = int(arrival.taken_at_s[index]), float(rng.random())
            proposed = None if np.isnan(certainty) else certainty
            sample = arrival.batch.features[index]
            new.append(NewSample(sample, embedding, condition, taken_at_s, rank, proposed))
    return Ingested(arrival, new, reasons, threshold, len(named.doubts))


def take_in(
    source: Source, memory: Memory, release: Release, intake: Intake, rng: np.random.Generator, watch: StreamWatch
) -> Ingested | None:
    """Take the first waiting file; None when none waits."""
    num_conditions = release.manifest.num_conditions
    if memory.base() != release.digest:
        memory.rebase(release.digest, release.engine.embed, release.sample_shape, num_conditions)
    for name in source.pending():
        try:
            arrival = source.load(name, release.sample_shape, num_conditions)
        except Malformed as error:
            log.warning("samples refused: %s: %s", ascii(name), error)
            source.refuse(name, str(error))
            continue
        if arrival is None:
            continue
        ingested = None
        if not memory.knows(name, arrival.digest):
            ingested = _taken(arrival, source, memory, release, intake, rng, watch)
            memory.store(ingested, intake.max_bytes)
        if source.done(name):
            memory.forget_arrival(name)  # only now, so that a kill in between finds the name and takes nothing twice
        if ingested is not None:
            return ingested
    return None


def embed_in_pieces(release: Release, features: Array) -> Array:
    pieces = range(0, len(features), EMBED_AT_ONCE)
    return np.concatenate([release.engine.embed(features[start : start + EMBED_AT_ONCE]) for start in pieces])


def _taken(
    arrival: Arrival,
    source: Source,
    memory: Memory,
    release: Release,
    intake: Intake,
    rng: np.random.Generator,
    watch: StreamWatch,
) -> Ingested:
    again = memory.knows_ids(arrival.ids)
    arrival, all_again = _only(arrival, ~again), int(again.sum())
    kept = memory.kept()
    watch.begin(release.digest, kept, release.manifest.num_conditions)
    if not len(arrival.batch):
        return Ingested(arrival, [], {AGAIN: all_again}, memory.threshold())
    named = name_all(arrival, release, intake.min_certainty)
    for row, doubt in named.doubts.items():
        source.set_aside(arrival, row, doubt)  # before the file is known: a kill in between sets it aside again
    embeddings = embed_in_pieces(release, arrival.batch.features)
    ingested = judge_all(arrival, named, embeddings, kept, memory.threshold(), intake, rng, watch)
    return replace(ingested, reasons={**ingested.reasons, AGAIN: all_again}) if all_again else ingested


def _only(arrival: Arrival, rows: NDArray[np.bool_]) -> Arrival:
    """The same file with these of its samples. rows: [N]."""
    if rows.all():
        return arrival
    batch = Batch(arrival.batch.features[rows], arrival.batch.conditions[rows])
    return replace(arrival, batch=batch, taken_at_s=arrival.taken_at_s[rows], ids=arrival.ids[rows])
