"""Sliced Wasserstein distance of two clouds of points: the mean of what sorting solves along random directions.

Rabin et al. 2011, "Wasserstein Barycenter and its Application to Texture Mixing".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DIRECTIONS = 512
"""Random directions: the 4 repeats of 128 of Karras et al. 2018."""


def random_directions(dimensions: int, rng: np.random.Generator, count: int = DIRECTIONS) -> Tensor:
    """Return `count` unit vectors, uniform on the sphere: float32 [dimensions, count]."""
    drawn = rng.standard_normal((dimensions, count)).astype(np.float32)
    return torch.from_numpy(drawn / np.sqrt(np.square(drawn).sum(axis=0, keepdims=True)))


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Return the mean over directions of the Wasserstein-1 distance between two clouds, projected on each.

    Args:
        a: points [M, D], float.
        b: as many points.
        directions: unit vectors [D, K].

    Returns:
        The mean absolute difference of the sorted projections. The paper reports it times 1000.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"two clouds of as many points are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    total = 0.0
    for part in torch.split(directions.to(a.device), 128, dim=1):
        total += float((_sorted(a @ part) - _sorted(b @ part)).abs().mean()) * part.shape[1]
    return total / directions.shape[1]


def _sorted(projections: Tensor) -> Tensor:
    """Return projections [M, K] sorted along the points, as [K, M]: sorting is faster along memory."""
    return projections.T.contiguous().sort(dim=1).values
