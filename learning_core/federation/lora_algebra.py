"""Adapters as numbers: what a serving graph has to be fed so that it answers as base plus adapter."""

from collections.abc import Sequence

import numpy as np

from learning_core.errors import Malformed
from learning_core.params import Array, Params

LABEL_ROWS = "label_rows"
LABEL_DELTA = "label_delta"
WIDTH_FROM = "tm.0.lora_A"  # the layer whose input is as wide as the model


def serving_inputs(
    start: Params, adapter: Params, num_conditions: int, known_conditions: Sequence[int]
) -> dict[str, Array]:
    """All adapter inputs of the serving graph: each factor pair, and label changes [num_conditions + 1, d].

    `start` holds the frozen "<path>.lora_A" [r, in], `adapter` "<path>.lora_B" [out, r] and, for conditions the base
    does not know, "label_rows" [new, d]. A partial adapter would be served without complaint, so it is refused here.
    Raises Malformed.
    """
    pairs = {name: f"{name.removesuffix('.lora_A')}.lora_B" for name in start}
    new = [condition for condition in range(num_conditions) if condition not in known_conditions]
    if adapter.keys() != set(pairs.values()) | ({LABEL_ROWS} if new else set()):
        odd = sorted(adapter.keys() ^ (set(pairs.values()) | ({LABEL_ROWS} if new else set())))
        raise Malformed(f"this adapter is not one of this release: it differs at {', '.join(odd[:4])}")
    for a_name, b_name in pairs.items():
        a, b = start[a_name], adapter[b_name]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise Malformed(f"{b_name} of shape {b.shape} does not go with factors of shape {a.shape}")
    delta = np.zeros((num_conditions + 1, start[WIDTH_FROM].shape[1]), np.float32)
    if new:
        if adapter[LABEL_ROWS].shape != (len(new), delta.shape[1]):
            raise Malformed(f"{LABEL_ROWS} has shape {adapter[LABEL_ROWS].shape}, not {(len(new), delta.shape[1])}")
        delta[new] = adapter[LABEL_ROWS]
    return dict(start) | {name: adapter[name] for name in pairs.values()} | {LABEL_DELTA: delta}


def together(first: Params, second: Params) -> dict[str, Array]:
    """Serving inputs that do what two sets of them do at once: W + B1 A1 + B2 A2. Raises Malformed.

    Ranks are concatenated, [B1 B2] [A1; A2]; where both have the same A, B1 + B2 on it is the same at half the cost.
    """
    sizes, others = ({name: _outer(name, value) for name, value in each.items()} for each in (first, second))
    if sizes != others:
        odd = sorted(name for name in sizes.keys() | others.keys() if sizes.get(name) != others.get(name))
        raise Malformed(f"these adapters are not of one student: they differ at {', '.join(odd[:4])}")
    joined: dict[str, Array] = {LABEL_DELTA: first[LABEL_DELTA] + second[LABEL_DELTA]}
    for a_name in (name for name in first if name.endswith(".lora_A")):
        b_name = f"{a_name.removesuffix('.lora_A')}.lora_B"
        if np.array_equal(first[a_name], second[a_name]):
            joined |= {a_name: first[a_name], b_name: first[b_name] + second[b_name]}
        else:
            joined[a_name] = np.concatenate((first[a_name], second[a_name]))
            joined[b_name] = np.concatenate((first[b_name], second[b_name]), axis=1)
    return joined


def _outer(name: str, value: Array) -> tuple[int, ...]:
    """The shape of an adapter input without its rank."""
    if name.endswith(".lora_A"):
        return value.shape[1:]
    return value.shape[:1] if name.endswith(".lora_B") else value.shape
