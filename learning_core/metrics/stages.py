"""What learning one task after another did to each of them, from the matrix R of a run.

R[i, j] is the accuracy on task j after learning i tasks, so row 0 is before any learning: [T + 1, T]. Libraries differ
in what they call forgetting; here it is Chaudhry's, from the best earlier stage down to the last.
"""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def average_accuracy(r: Matrix) -> float:
    """Mean accuracy of all tasks after the last. Lopez-Paz and Ranzato 2017, eq. 2 (arXiv:1706.08840)."""
    return float(_checked(r)[-1].mean())


def average_incremental_accuracy(r: Matrix) -> float:
    """Mean over stages of the accuracy on the tasks seen so far. Rebuffi et al. 2017 (arXiv:1611.07725)."""
    rows = _checked(r)
    return float(np.mean([rows[stage, :stage].mean() for stage in range(1, len(rows))]))


def backward_transfer(r: Matrix) -> float:
    """How much the last stage changed what a task had right after it was learned; negative is forgetting.

    Mean over all tasks but the last, 0 for a single one. Lopez-Paz and Ranzato 2017, eq. 3.
    """
    rows = _checked(r)
    learned = np.diagonal(rows[1:])
    return float((rows[-1] - learned)[:-1].mean()) if len(learned) > 1 else 0.0


def forward_transfer(r: Matrix) -> float:
    """What earlier tasks did for one not yet learned, against before any learning: 0 for a single task.

    Mean over all tasks but the first. Lopez-Paz and Ranzato 2017, eq. 4, with row 0 as the reference.
    """
    rows = _checked(r)
    tasks = range(1, rows.shape[1])
    return float(np.mean([rows[task, task] - rows[0, task] for task in tasks])) if tasks else 0.0


def forgetting(r: Matrix) -> float:
    """The fall from a task's best earlier stage to the last: mean over all tasks but the last, 0 for a single one.

    Chaudhry et al. 2018, eq. 3 (arXiv:1801.10112); the maximum leaves the last stage out, so gains are negative.
    """
    rows = _checked(r)
    last = rows.shape[1] - 1
    falls = [rows[task + 1 : -1, task].max() - rows[-1, task] for task in range(last)]
    return float(np.mean(falls)) if falls else 0.0


def worst_accuracy(r: Matrix) -> float:
    """The lowest accuracy of any task at any stage after it was learned. De Lange et al. 2023 (arXiv:2205.13452)."""
    rows = _checked(r)
    return float(min(rows[task + 1 :, task].min() for task in range(rows.shape[1])))


def _checked(r: Matrix) -> Matrix:
    rows = np.asarray(r, np.float64)
    if rows.ndim != 2 or rows.shape[1] < 1 or rows.shape[0] != rows.shape[1] + 1 or not np.isfinite(rows).all():
        raise ValueError(f"need one row before and one after each task, [T + 1, T] and finite, not {rows.shape}")
    return rows
