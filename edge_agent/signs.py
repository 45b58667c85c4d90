"""What can be told of the stream while it passes: whether it drifts, narrows, or surprises who learned from it.

Beside the way of a sample and never in it: signs are shown in `status`, and nothing is decided by them.
"""

from collections import deque
from dataclasses import replace

import numpy as np

from edge_agent.values import StreamSigns
from learning_core.memory import diversity, drift, page_hinkley
from learning_core.memory.kernel import rbf
from learning_core.memory.novelty import Kept
from learning_core.memory.surprise import Reader, learn, surprise
from learning_core.params import Array

WINDOW = 48  # samples on either side of a comparison
SHUFFLES = 199
LESS = 0.75  # of the usual diversity: a smaller fall is not tested, since the test takes a tenth of a second
LEVEL = 0.005  # one false alarm of each kind in 200 comparisons of WINDOW samples: about one in 10,000 samples
MAX_READER = 1 << 20  # weights; with more conditions than that allows there is no reader, and no surprise


class StreamWatch:
    """Watches embeddings of one release. Nothing is saved: it starts anew with the agent and with each release."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._num_conditions = 1
        self._start("", None)
        self.signs = StreamSigns()

    def begin(self, base: str, kept: Kept, num_conditions: int) -> None:
        """Embeddings are of this release from now on; what is kept is known to the reader already."""
        if base == self._base:
            return
        self._num_conditions = num_conditions
        self._start(base, _reader_of(kept, num_conditions))

    def forget(self) -> None:
        """Keep nothing of any sample; it begins anew with what is kept then. The signs are figures, and stay."""
        self._start("", None)

    def take(self, embedding: Array, condition: int, kept: bool) -> None:
        """One more sample of the stream. embedding: [d]."""
        if not np.isfinite(embedding).all():
            return
        self.signs = replace(self.signs, seen=self.signs.seen + 1)
        self._ask(embedding, condition, kept)
        self._current.append(embedding)
        if len(self._current) == WINDOW:
            self._compare(np.stack(self._current))

    def _start(self, base: str, reader: Reader | None) -> None:
        self._base, self._reader = base, reader
        self._reference: Array | None = None
        self._current: list[Array] = []
        self._surprises: deque[float] = deque(maxlen=WINDOW)
        self._watched = page_hinkley.Watched()

    def _ask(self, embedding: Array, condition: int, kept: bool) -> None:
        if self._reader is None:
            self._reader = _ignorant(len(embedding), self._num_conditions)
        if self._reader is None:
            return
        doubt = surprise(self._reader, embedding, condition)
        self._surprises.append(doubt)
        before = self._watched
        self._watched, alarm = page_hinkley.step(before, doubt, page_hinkley.Rule())
        rose = alarm and before.risen > before.fallen  # that it falls is what learning does
        self.signs = replace(
            self.signs, surprise=float(np.mean(self._surprises)), surprised=self.signs.surprised + rose
        )
        if kept:
            self._reader = learn(self._reader, embedding, condition)

    def _compare(self, current: Array) -> None:
        """A full window against the reference: the first one, or the one that drifted away from it."""
        self._current = []
        if self._reference is None:
            self._reference = current
            return
        moved = drift.shift(self._reference, current, self._rng, LEVEL, SHUFFLES)
        alike = rbf(np.concatenate((self._reference, current)))  # on one scale, or what is narrow would not look it
        usual, score = diversity.vendi(alike[:WINDOW, :WINDOW]), diversity.vendi(alike[WINDOW:, WINDOW:])
        fell = score < LESS * usual and diversity.compare(self._reference, current, self._rng, LEVEL, SHUFFLES).fell
        self.signs = replace(
            self.signs,
            drift=moved.discrepancy,
            diversity=score,
            usual_diversity=usual,
            drifted=self.signs.drifted + moved.drifted,
            narrowed=self.signs.narrowed + fell,
        )
        if moved.drifted:
            self._reference = current


def _reader_of(kept: Kept, num_conditions: int) -> Reader | None:
    """One that has learned from all that is kept; None while nothing is."""
    rows = [(row, condition) for condition, rows in kept.by_condition.items() for row in rows]
    if not rows or (reader := _ignorant(len(rows[0][0]), num_conditions)) is None:
        return None
    for row, condition in rows:
        reader = learn(reader, row, condition)
    return reader


def _ignorant(width: int, num_conditions: int) -> Reader | None:
    if width * max(width, num_conditions) > MAX_READER:
        return None
    return Reader.ignorant(width, num_conditions)
