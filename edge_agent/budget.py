"""What learning may cost a device in one day. The caps are hard: what might be spent is counted before it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Energy in joules and traffic in bytes; neither is ever below zero."""

    joules: float = 0.0
    bytes: int = 0

    def __post_init__(self) -> None:
        if not self.joules >= 0 or self.bytes < 0:
            raise ValueError(f"a cost is never negative, but this one is {self.joules} J and {self.bytes} bytes")

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.joules + other.joules, self.bytes + other.bytes)


def ahead(spent: Cost, credit_j: float, joules: float, piece_j: float) -> tuple[Cost, float]:
    """Charge `joules` against what was booked ahead; the cost with what is booked now, and the credit left of it.

    Energy is booked in whole pieces before it is used and never given back: losing the credit to a crash counts too
    much, never too little. While work is going on there is always some credit, so a piece is booked as soon as none
    is left.
    """
    if joules <= 0:
        return spent, credit_j
    credit_j -= joules
    pieces = 0 if credit_j > 0 else int(-credit_j // piece_j) + 1
    return spent + Cost(joules=pieces * piece_j), credit_j + pieces * piece_j
