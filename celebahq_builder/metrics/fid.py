"""Frechet Inception distance, FID (Heusel et al. 2017): the arithmetic on features."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_FEATURES = 1024
"""Features that are added at once; fixed, so that sums do not depend on how features are grouped."""


class FeatureMoments:
    """Mean and covariance of features that arrive in batches and are not kept.

    Everything is float64. Blocks of features are merged by their means and their squared deviations from these, so a
    large mean causes no cancellation.

    References:
        Chan, Golub and LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".

    Examples:
        >>> moments = FeatureMoments()
        >>> moments.add(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        >>> moments.add(torch.tensor([[4.0, 3.0]]))
        >>> mean, covariance = moments.moments()
        >>> mean.tolist(), covariance.tolist()
        ([2.0, 1.0], [[4.0, 3.0], [3.0, 3.0]])
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._waiting_rows = 0
        self._count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._squares = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def count(self) -> int:
        """Number of features so far."""
        return self._count + self._waiting_rows

    @property
    def dimensions(self) -> int:
        """Dimensions of a feature; 0 before the first."""
        return self._waiting[0].shape[1] if self._waiting else len(self._mean)

    def add(self, features: Tensor) -> None:
        """Add features, float [n, D], on any device.

        Raises:
            ValueError: the shape differs from that of earlier features.
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
                self._count, self._mean, self._squares = self._merged(block)
            self._waiting = [rows[whole:].clone()]
            self._waiting_rows = len(rows) - whole

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean [D] and covariance [D, D], float64; the covariance is divided by the count - 1.

        Raises:
            ValueError: there are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two features, got {self.count}")
        rows = torch.cat(self._waiting)
        count, mean, squares = self._merged(rows) if len(rows) else (self._count, self._mean, self._squares)
        return mean, squares / (count - 1)

    def _merged(self, block: Tensor) -> tuple[int, Tensor, Tensor]:
        mean = block.mean(dim=0)
        deviations = block - mean
        squares = deviations.T @ deviations
        if not self._count:
            return len(block), mean, squares
        count = self._count + len(block)
        shift = mean - self._mean
        squares += self._squares
        squares += torch.outer(shift, shift) * (self._count * len(block) / count)
        return count, self._mean + shift * (len(block) / count), squares


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return the squared Frechet distance of two Gaussians with the moments of two sets of features; of Inception: FID.

    With means m and covariances C it is |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    The trace of the root is computed as the sum of the singular values of C_a^(1/2) C_b^(1/2). These roots are of
    symmetric matrices, so no value becomes complex, and singular covariances, of fewer features than dimensions, need
    no constant on their diagonal.

    Args:
        a: moments of the features of one set.
        b: moments of those of the other.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        ValueError: the sets have different dimensions, or one has fewer than two features.

    References:
        Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        equation 6; Dowson and Landau 1982.

    Examples:
        >>> a, b = FeatureMoments(), FeatureMoments()
        >>> features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> a.add(features)
        >>> b.add(features + 1)
        >>> round(frechet_distance(a, b), 6)
        2.0
    """
    (mean_a, cov_a), (mean_b, cov_b) = a.moments(), b.moments()
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features of {len(mean_a)} and of {len(mean_b)} dimensions cannot be compared")
    root = torch.linalg.svdvals(_factor(cov_a).T @ _factor(cov_b)).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root
    return max(float(distance), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """Return F [D, rank] with F F^T = covariance; eigenvectors with only rounding errors as eigenvalues are dropped."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    significant = values > noise
    factor: Tensor = vectors[:, significant] * values[significant].sqrt()
    return factor
