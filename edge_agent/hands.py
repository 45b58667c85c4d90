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
    """Looks, and does. What cannot be done raises DewfallError; then nothing has changed."""

    def standing(self) -> Standing | None:
        """None while nothing is served."""
        ...

    def recent(self) -> Sequence[Answered]:
        """The latest answers to others, of one sample each, the newest last."""
        ...

    def ask(self, conditions: Sequence[int], seed: int) -> Answered:
        """Through the door, as anybody, with one sample for each condition; it does not count among the recent ones.

        From the noise of `default_rng(seed)`. Raises DewfallError for conditions that there are not.
        """
        ...

    def draw(self, noise: Array, conditions: NDArray[np.int64], variant: str, *, as_set: bool) -> Array:
        """By the student without healed outputs, as the variant is set now or as it is intended, [N, C, H, W].

        By the usual variant where there is none of this name.
        """
        ...

    def files_sound(self) -> bool:
        """Whether the files of what is served are what its manifest says."""
        ...

    def reverify(self) -> None:
        """Verify what is served and load it anew, without healed outputs; the identity stays."""
        ...

    def restore_sampler(self) -> None:
        """Every variant is again as it is intended."""
        ...

    def prefer_cheaper(self) -> None:
        """Answer with variants that take fewer passes than the usual one."""
        ...

    def prefer_usual(self) -> None:
        """Answer with any variant again."""
        ...

    def roll_back(self, reason: str, identity: str) -> None:
        """Leave what is served and was found wanting, if it is this, and the healed outputs beside it."""
        ...

    def answer_from(self, cache: HealedOutputs, identity: str) -> None:
        """Answer the conditions of which there are healed outputs from these, if their student is still served."""
        ...

    def ask_for_data(self, conditions: Sequence[int]) -> None:
        """Keep samples of these conditions, and of no others than these, also where they are familiar."""
        ...
