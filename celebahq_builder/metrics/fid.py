"""Frechet Inception distance (Heusel et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_FEATURES = 1024
"""Features that are added up at once. It is fixed, so that sums do not depend on how features come."""


class FeatureMoments:
    """Mean and covariance of features, which come bit by bit; none is kept.

    All is in float64, and blocks of features are joined by their means and their squares about them (Chan, Golub and
    LeVeque 1979), so that nothing cancels where the mean is large.
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._waiting_rows = 0
        self._count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._squares = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def count(self) -> int:
        """How many features there were."""
        return self._count + self._waiting_rows

    @property
    def dimensions(self) -> int:
        """Of a feature; 0 before the first."""
        return self._waiting[0].shape[1] if self._waiting else len(self._mean)

    def add(self, features: Tensor) -> None:
        """Add features, float [n, D], of any device.

        Raises:
            ValueError: another shape than before.
        """
        if features.ndim != 2 or (self.count and features.shape[1] != self.dimensions):
            raise ValueError(f"features of shape [n, {self.dimensions or 'D'}] are needed, got {list(features.shape)}")
        if not len(features):
            return
        self._waiting.append(features.detach().to("cpu", torch.float64))
        self._waiting_rows += len(features)
        if self._waiting_rows >= BLOCK_FEATURES:
            rows = torch.cat(self._waiting)
            whole = len(rows) - len(rows) % BLOCK_FEATURES
            for block in torch.split(rows[:whole], BLOCK_FEATURES):
                self._count, self._mean, self._squares = self._joined(block)
            self._waiting = [rows[whole:].clone()]
            self._waiting_rows = len(rows) - whole

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean [D] and covariance [D, D], float64; the latter divided by the count less one.

        Raises:
            ValueError: fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two features at least, got {self.count}")
        rows = torch.cat(self._waiting)
        count, mean, squares = self._joined(rows) if len(rows) else (self._count, self._mean, self._squares)
        return mean, squares / (count - 1)

    def _joined(self, block: Tensor) -> tuple[int, Tensor, Tensor]:
        mean = block.mean(dim=0)
        about = block - mean
        squares = about.T @ about
        if not self._count:
            return len(block), mean, squares
        count = self._count + len(block)
        shift = mean - self._mean
        squares += self._squares
        squares += torch.outer(shift, shift) * (self._count * len(block) / count)
        return count, self._mean + shift * (len(block) / count), squares


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return the Frechet distance, squared, of the Gaussians that have the moments of two sets of features.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), Heusel et al. 2017, equation 6 (Dowson and Landau 1982).

    The trace of the root is the sum of the singular values of the product of the roots of both covariances. These are
    symmetric, so nothing becomes complex, and a covariance of fewer features than dimensions needs no small number
    added to it, as the root of the product itself does.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        ValueError: sets of different dimensions, or of fewer than two features.
    """
    (mean_a, cov_a), (mean_b, cov_b) = a.moments(), b.moments()
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features of {len(mean_a)} and of {len(mean_b)} dimensions cannot be compared")
    root = torch.linalg.svdvals(_factor(cov_a).T @ _factor(cov_b)).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root
    return max(float(distance), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """Return F [D, rank] with F F^T = covariance; directions that hold nothing but rounding are left out."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    held = values > noise
    factor: Tensor = vectors[:, held] * values[held].sqrt()
    return factor
