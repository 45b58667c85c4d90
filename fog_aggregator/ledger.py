"""What each device has been charged. The ledger is per device: a device's rounds compose wherever they were run.

Every enrolled device is charged for every released round, chosen or not: the accountant has already allowed for the
chance of being chosen.
"""

from collections.abc import Iterable, Mapping, Sequence

from fog_aggregator.plans import Budget, Terms
from learning_core.federation.accountant import Spending, epsilon

Histories = Mapping[int, tuple[Spending, ...]]


def spent(histories: Histories, target_delta: float) -> dict[int, float]:
    """Each device's epsilon so far."""
    known: dict[tuple[Spending, ...], float] = {}
    for history in histories.values():
        if history not in known:
            known[history] = epsilon(history, target_delta)
    return {node: known[history] for node, history in histories.items()}


def over_budget(histories: Histories, devices: Iterable[int], terms: Terms, budget: Budget) -> list[int]:
    """The devices that one more round on these terms would take past `max_epsilon`; infinity allows everything."""
    more = Spending(terms.noise_multiplier, terms.sample_rate, 1)
    after = {node: (*histories.get(node, ()), more) for node in devices}
    return [node for node, cost in spent(after, budget.target_delta).items() if cost > budget.max_epsilon]


def highest(histories: Histories, devices: Sequence[int], target_delta: float) -> float:
    """The epsilon of the device charged most: what the site may state for all of them."""
    return max(spent({node: histories.get(node, ()) for node in devices}, target_delta).values(), default=0.0)
