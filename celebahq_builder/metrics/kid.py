"""Kernel Inception distance (Binkowski et al. 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError

BLOCK_FEATURES = 250
"""Features of a set whose pairs with all later ones are computed at once."""


def kernel_inception_distance(
    a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the mean and the standard deviation over random subsets of the unbiased estimate of MMD^2.

    Unbiased: its expectation is the same for any number of features, and 0 for two sets of one distribution; so it
    may be negative. The paper's code reports it as it is, others times 1000.

    Args:
        a: features [N, D], float32; they are all needed at once: 50,000 of Inception's take 400 MB.
        b: features [M, D].
        subsets: pairs of subsets that are drawn.
        subset_size: features of each, drawn without repetition.
        seed: of the drawing.

    Raises:
        FormatError: fewer features than a subset has.
        ValueError: of different dimensions, or subsets of fewer than two.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features [N, D] and [M, D] are needed, got {list(a.shape)} and {list(b.shape)}")
    if subset_size < 2 or subsets < 1:
        raise ValueError(f"at least one subset of two features is needed, got {subsets} of {subset_size}")
    if min(len(a), len(b)) < subset_size:
        raise FormatError(
            f"KID draws subsets of {subset_size} images, there are {len(a)} and {len(b)}; "
            "take more images, or smaller subsets"
        )
    rng = np.random.default_rng(seed)
    found = np.empty(subsets)
    for i in range(subsets):
        some, others = (torch.from_numpy(rng.permutation(len(each))[:subset_size]) for each in (a, b))
        found[i] = polynomial_mmd2(a[some.to(a.device)], b[others.to(b.device)])
    return float(found.mean()), float(found.std())


def polynomial_mmd2(a: Tensor, b: Tensor) -> float:
    """Return the unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, sections 2, 4.2).

    Pairs of a feature with itself are left out within each set (Gretton et al. 2012, equation 3).

    Args:
        a: features [n, D]; of float32 the products are float32, their sums float64.
        b: features [m, D].
    """
    within = [_pair_sum(x) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return sum(within) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _pair_sum(x: Tensor) -> float:
    """Return the kernel's sum over all pairs of different features, each pair computed once and counted twice."""
    total = 0.0
    for start in range(0, len(x), BLOCK_FEATURES):
        block, later = x[start : start + BLOCK_FEATURES], x[start + BLOCK_FEATURES :]
        total += _kernel_sum(block, block) - _kernel_diagonal(block) + 2 * _kernel_sum(block, later)
    return total


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    products = (x @ y.T).mul_(1 / x.shape[1]).add_(1)
    return float((products.square() * products).sum(dtype=torch.float64))


def _kernel_diagonal(x: Tensor) -> float:
    """Return the sum over pairs of a feature with itself, rounded as in the sum it is taken from."""
    products = x.square().sum(dim=1).mul_(1 / x.shape[1]).add_(1)
    return float((products.square() * products).sum(dtype=torch.float64))
