"""What healing may see and do: the seam behind which serving, releases and memory lie, or a simulation of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.healing.cache import HealedOutputs
from edge_agent.ports import Judge
from edge_agent.serving import Answered
from learning_core.params import Array
from protos.release import Variant


@dataclass(frozen=True, slots=True)
class Standing:
    """What is served now. `identity` changes with every change of weights that was made on purpose.

    `intended`: the variants as the manifest has them, the usual one first; `live`: as they are set now; `known`: the
    conditions that are to be answered well.
    """

    identity: str
    judge: Judge
    sample_shape: tuple[int, ...]
    num_conditions: int
    known: tuple[int, ...]
    intended: tuple[Variant, ...]
    live: tuple[Variant, ...]
    cache: HealedOutputs | None = None


class Hands(Protocol):
    """Looks, and does. What cannot be done raises DewfallError."""

    def standing(self) -> Standing | None:
        """None while nothing is served."""
        ...

    def recent(self) -> Sequence[Answered]:
        """The latest answers to others, of one sample each, the newest last."""
        ...

    def ask(self, conditions: Sequence[int], seed: int) -> Answered:
        """Through the door, as anybody; it does not count among the recent ones."""
        ...

    def draw(self, noise: Array, conditions: NDArray[np.int64], variant: str, *, as_set: bool) -> Array:
        """Directly by the student, as the variant is set now or as it is intended."""
        ...

    def files_sound(self) -> bool: ...

    def reverify(self) -> None:
        """Verify what is served and load it anew."""
        ...

    def restore_sampler(self) -> None: ...

    def prefer_cheaper(self) -> None: ...

    def prefer_usual(self) -> None: ...

    def roll_back(self, reason: str, identity: str) -> None:
        """Leave what is served and was found wanting, and nothing else."""
        ...

    def answer_from(self, cache: HealedOutputs, identity: str) -> None:
        """Answer the conditions of which there are healed outputs from these, where their student is still served."""
        ...

    def ask_for_data(self, conditions: Sequence[int]) -> None:
        """Keep samples of these conditions, and of no others than these, also where they are familiar."""
        ...
