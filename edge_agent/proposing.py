"""A condition for a sample that came without one: what the release's judge takes it for, and how sure it is.

The softmax share is the judge's own belief and is not calibrated; a judge also believes something of a sample that is
like nothing it knows. Both are reasons for a high `min_certainty`, and for showing the rest to a person.
"""

from dataclasses import dataclass

import numpy as np

from learning_core.params import Array

UNKNOWN = -1  # the condition of a sample that came without


@dataclass(frozen=True, slots=True)
class Proposal:
    """The likeliest condition with its share 0..1 of the belief, and the second likeliest (None where there is one)."""

    condition: int
    certainty: float
    second: int | None
    second_certainty: float


def propose(logits: Array) -> Proposal:
    """logits: [K]. One that is not finite proposes nothing: certainty 0.

    >>> propose(np.log(np.array([.7, .2, .1], np.float32))).condition
    0
    """
    if not np.isfinite(logits).all():
        return Proposal(0, 0.0, None, 0.0)
    raised = np.exp(logits.astype(np.float64) - logits.max())
    shares = raised / raised.sum()
    order = np.argsort(-shares, kind="stable")
    first = int(order[0])
    if len(order) == 1:
        return Proposal(first, 1.0, None, 0.0)
    second = int(order[1])
    return Proposal(first, float(shares[first]), second, float(shares[second]))


def doubt_of(proposal: Proposal, min_certainty: float) -> str | None:
    """Why the proposal is not to be believed, in a sentence; None when it is. At 1 none is: shares are rounded."""
    if proposal.certainty >= min_certainty and min_certainty < 1:
        return None
    found = f"it looks like class {proposal.condition} (share {proposal.certainty:.2f})"
    if proposal.second is not None:
        found += f", or {proposal.second} ({proposal.second_certainty:.2f})"
    return f"no class came with it, and {found}: less sure than the {min_certainty:g} of source.min_certainty"
