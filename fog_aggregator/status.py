"""What a fog tells people about itself, as plain records. Infinite epsilons become None: no guarantee at all."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fog_aggregator import ledger
from fog_aggregator.plans import Budget, Device, Terms

UNIT = "one device's whole participation, added or removed"


def ledger_record(
    devices: Sequence[Device], histories: ledger.Histories, terms: Terms, budget: Budget
) -> dict[str, Any]:
    """What each device has been charged, and the terms of the next round."""
    costs = ledger.spent({device.node_id: histories.get(device.node_id, ()) for device in devices}, budget.target_delta)
    return {
        "epsilon": _number(max(costs.values(), default=0.0)),
        "target_delta": budget.target_delta,
        "max_epsilon": _number(budget.max_epsilon),
        "clip_norm": terms.clip_norm,
        "noise_multiplier": terms.noise_multiplier,
        "sample_rate": terms.sample_rate,
        "unit": UNIT,
        "devices": {
            device.name: {
                "node_id": str(device.node_id),
                "epsilon": _number(costs[device.node_id]),
                "rounds": sum(spending.rounds for spending in histories.get(device.node_id, ())),
            }
            for device in devices
        },
    }


def round_record(stored: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """One round with devices by name; who was left out, and how often for which reason."""
    if "abandoned" in stored:
        return dict(stored)
    record = dict(stored)
    record["cohort"] = [names.get(node, node) for node in stored["cohort"]]
    record["accepted"] = [names.get(node, node) for node in stored["accepted"]]
    for group in ("declined", "refused", "silent"):
        record[group] = {names.get(node, node): reason for node, reason in stored[group].items()}
    record["cohort_size"] = len(stored["cohort"])
    record["num_accepted"] = len(stored["accepted"])
    record["declined_reasons"] = dict(Counter(reason.split(":")[0] for reason in stored["declined"].values()))
    return record


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
