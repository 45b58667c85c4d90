"""Who takes part in a round: every enrolled device tosses its own coin, whatever state it is in.

Poisson sampling is what the accountant's amplification is proved for. A coin that depended on heat, charge or data
would void it, so a device that cannot take part is chosen all the same and counts as a zero contribution.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from protos.flower_records import DeviceStatus


def sample(enrolled: Sequence[int], sample_rate: float, rng: np.random.Generator) -> tuple[int, ...]:
    """The devices whose independent coin fell; `rng` has to be secret. Possibly none, possibly all."""
    coins = rng.random(len(enrolled))
    return tuple(node for node, coin in zip(enrolled, coins, strict=True) if coin < sample_rate)


def unready(status: DeviceStatus | None, release: int) -> str | None:
    """Why a device would not train on `release` now, or None when it would."""
    if status is None:
        return "gave no answer to the status query"
    if not status.ready:
        return status.reason or "not ready"
    if status.release != release:
        return f"serves release {status.release}, not {release}"
    return None


def num_ready(statuses: Mapping[int, DeviceStatus], release: int) -> int:
    """How many devices a round would find.

    Rounds begin only when somebody can train: the price of not burning budget on noise overnight is that the times of
    rounds tell that some devices were ready. Who, and what they hold, they do not tell.
    """
    return sum(unready(status, release) is None for status in statuses.values())
