"""How the aggregates of several fogs become the next shared adapter."""

from collections.abc import Iterable, Sequence

import numpy as np

from learning_core.params import Params
from learning_core.updates import Aggregate


def consolidate(shared: Params, aggregates: Sequence[Aggregate]) -> Params:
    """Shared + sum over fogs of w_f * (sum of the fog's rounds), w_f its share of all expected cohorts.

    Each delta is already a mean over the fog's expected cohort, so the weights make it the mean over all devices that
    were expected: FedAvg, McMahan et al. 2017 (arXiv:1602.05629). Rounds of one fog follow each other, so they add up
    instead of being averaged. No aggregate changes nothing.
    """
    if len({(each.fog, each.round) for each in aggregates}) < len(aggregates):
        raise ValueError("a fog's round may be consolidated only once")
    if odd := [each for each in aggregates if each.delta.keys() != shared.keys()]:
        raise ValueError(f"round {odd[0].round} of {odd[0].fog} does not have the names of the shared adapter")
    cohorts = {fog: _mean(each.expected_cohort for each in aggregates if each.fog == fog) for fog in _fogs(aggregates)}
    everyone = sum(cohorts.values())
    total = {name: value.astype(np.float64) for name, value in shared.items()}
    for each in sorted(aggregates, key=lambda each: (each.fog, each.round)):  # the order of arrival changes no bit
        weight = cohorts[each.fog] / everyone
        for name, change in each.delta.items():
            total[name] = total[name] + weight * change.astype(np.float64)
    return {name: value.astype(np.float32) for name, value in total.items()}


def _fogs(aggregates: Sequence[Aggregate]) -> list[str]:
    return sorted({each.fog for each in aggregates})


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
