"""Kernel Inception distance, KID (Binkowski et al. 2018): the arithmetic on features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError

BLOCK_FEATURES = 250
"""Features of a set whose pairs with all later features are computed at once."""


def kernel_inception_distance(
    a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the kernel Inception distance: mean and standard deviation of `polynomial_mmd2` over random subsets.

    The estimate is unbiased: its expectation does not depend on the number of features and is 0 for two sets of one
    distribution, so it may be negative. It is reported as it is, as in the authors' code; others multiply it by 1000.

    Args:
        a: features [N, D], float32. All are in memory at once: 50,000 of Inception take 400 MB.
        b: features [M, D].
        subsets: number of pairs of subsets.
        subset_size: features of a subset, drawn without replacement.
        seed: of the draws.

    Raises:
        FormatError: a set has fewer features than a subset.
        ValueError: the dimensions differ, or a subset has fewer than two features.

    References:
        Binkowski et al. 2018, "Demystifying MMD GANs", section 4.2.

    Examples:
        >>> a, b = torch.randn(2, 200, 16, generator=torch.Generator().manual_seed(0))
        >>> near, deviation = kernel_inception_distance(a, b, subsets=10, subset_size=100)
        >>> far, _ = kernel_inception_distance(a, b + 1, subsets=10, subset_size=100)
        >>> abs(near) < 3 * deviation < far
        True
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
    estimates = np.empty(subsets)
    for i in range(subsets):
        in_a, in_b = (torch.from_numpy(rng.permutation(len(features))[:subset_size]) for features in (a, b))
        estimates[i] = polynomial_mmd2(a[in_a.to(a.device)], b[in_b.to(b.device)])
    return float(estimates.mean()), float(estimates.std())


def polynomial_mmd2(a: Tensor, b: Tensor) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

    Args:
        a: features [n, D], n at least 2; products have their dtype, sums are float64.
        b: features [m, D].

    References:
        Binkowski et al. 2018, "Demystifying MMD GANs", section 2; Gretton et al. 2012, "A Kernel Two-Sample Test",
        equation 3: pairs of a feature with itself are excluded.

    Examples:
        >>> polynomial_mmd2(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [0.0]]))
        7.0
    """
    within = [_pair_sum(x) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return sum(within) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _pair_sum(x: Tensor) -> float:
    """Return the sum of the kernel over all pairs of different features; each is computed once and counted twice."""
    total = 0.0
    for start in range(0, len(x), BLOCK_FEATURES):
        block, later = x[start : start + BLOCK_FEATURES], x[start + BLOCK_FEATURES :]
        total += _kernel_sum(block, block) - _kernel_diagonal(block) + 2 * _kernel_sum(block, later)
    return total


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    products = (x @ y.T).mul_(1 / x.shape[1]).add_(1)
    return float((products.square() * products).sum(dtype=torch.float64))


def _kernel_diagonal(x: Tensor) -> float:
    """Return the sum of the kernel over pairs of a feature with itself, rounded as in `_kernel_sum`."""
    products = x.square().sum(dim=1).mul_(1 / x.shape[1]).add_(1)
    return float((products.square() * products).sum(dtype=torch.float64))
