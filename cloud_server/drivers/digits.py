"""scikit-learn's 1,797 handwritten digits (UCI optical recognition, 8 x 8), as the rest of the program wants images."""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learning_core.errors import ConfigError
from learning_core.samples import Batch, split

SIDE, CHANNELS, NUM_CONDITIONS = 8, 1, 10


def load_digits() -> Batch:
    """All of them in their fixed order; features [1797, 1, 8, 8] in -1..1.

    Reads the table inside the installed scikit-learn: importing the library for it takes seconds and 100 MB.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise ConfigError("the digits come with scikit-learn; install it with `pip install 'dewfall[cloud]'`")
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = table[:, :-1].reshape(-1, CHANNELS, SIDE, SIDE) / 8 - 1
    return Batch(images.astype(np.float32), table[:, -1].astype(np.int64))


def parted(samples: Batch, seed: int, hold_out: float) -> tuple[Batch, Batch]:
    """(for training, held out for evaluation)."""
    kept, held = split(len(samples), seed, hold_out)
    return pick(samples, kept), pick(samples, held)


def pick(samples: Batch, chosen: NDArray[np.int64]) -> Batch:
    return Batch(samples.features[chosen], samples.conditions[chosen])
