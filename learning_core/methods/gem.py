"""Bend a gradient until, to first order, no memory of an earlier task gets worse."""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor


def project(gradient: Tensor, memory: Tensor) -> Tensor:
    """Remove from `gradient` [D] what would undo the mean of the memory gradients [T, D].

    A-GEM, Chaudhry et al. 2019, eq. 11 (arXiv:1812.00420).
    """
    if len(memory) == 0:
        return gradient
    reference = memory.mean(dim=0)
    overlap = gradient @ reference
    if overlap >= 0:
        return gradient
    return gradient - overlap / (reference @ reference) * reference


def project_all(gradient: Tensor, memory: Tensor, margin: float = 0.0) -> Tensor:
    """The vector nearest to `gradient` [D] that is at no obtuse angle to any of the memory gradients [T, D].

    GEM, Lopez-Paz and Ranzato 2017 (arXiv:1706.08840). The dual is a non-negative least-squares problem in T
    unknowns; `margin` is the least of each of them, and pushes further into the memories once one is contradicted.
    """
    if bool((memory @ gradient >= 0).all()):
        return gradient
    rows = memory.detach().numpy().astype(np.float64)
    wanted = gradient.detach().numpy().astype(np.float64) + margin * rows.sum(axis=0)
    span, triangle = np.linalg.qr(rows.T)  # T x T instead of D x T: D is hundreds of thousands
    weights, _ = nnls(triangle, -span.T @ wanted)
    return torch.from_numpy(wanted + weights @ rows).to(gradient.dtype)
