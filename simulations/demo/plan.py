"""The demo's cast: which devices there are, in what shape they start, and what each of them gets to see."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learning_core.samples import Batch
from simulations.demo.twin import Twin
from simulations.physics import Board, DeviceState
from simulations.streams import dirichlet_shares, portions

OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
STAGES = ((5, 6), (7, 8, 9))
FOGS: Mapping[str, tuple[str, ...]] = {
    "fog-a": ("device-1", "device-2", "device-3"),
    "fog-b": ("device-4", "device-5", "device-6"),
}
DEVICES = tuple(device for devices in FOGS.values() for device in devices)
HOT, LOW = "device-2", "device-5"
TIME_SCALE = 4.0  # simulated seconds of heat and charge for each real one


@dataclass(frozen=True, slots=True)
class Stream:
    """How samples reach the devices: `copies` near-duplicates of each, in portions `every_s` seconds apart."""

    concentration: float = 0.5
    copies: int = 3
    jitter: float = 0.02
    per_stage: int = 3
    every_s: float = 2.0


def twins(folder: Path, new: Batch, stream: Stream, seed: int) -> list[Twin]:
    """The devices' surroundings: one starts hot, one starts low on charge and is plugged in later."""
    rng = np.random.default_rng([seed, 1])
    shares = dirichlet_shares(new.conditions, len(DEVICES), stream.concentration, rng)
    cast = []
    for name, share in zip(DEVICES, shares, strict=True):
        board, state, plug_in_after_s = Board(), DeviceState(38.0, 35.0, charge=0.8), None
        if name == HOT:
            # its chip sits badly on its heat sink, so that learning alone takes it back above the limit
            board, state = Board(battery_j=None, ambient_c=30.0, die_to_body=8.0), DeviceState(84.0, 70.0)
        if name == LOW:
            state, plug_in_after_s = DeviceState(38.0, 35.0, charge=0.12), 15.0
        seen = portions(
            Batch(new.features[share], new.conditions[share]),
            STAGES,
            rng,
            copies=stream.copies,
            jitter=stream.jitter,
            per_stage=stream.per_stage,
            every_s=stream.every_s,
        )
        place = folder / name
        cast.append(Twin(name, place / "root", place / "spool", board, state, deque(seen), plug_in_after_s))
    return cast
