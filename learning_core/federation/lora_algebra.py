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
