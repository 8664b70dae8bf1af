"""Metrics on outputs of the Inception network: FID, KID and IS, without files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError

# --- Frechet Inception distance (Heusel et al. 2017) -----------------------------------------------------------------

MOMENT_ROWS = 1024
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
        if self._waiting_rows >= MOMENT_ROWS:
            rows = torch.cat(self._waiting)
            whole = len(rows) - len(rows) % MOMENT_ROWS
            for block in torch.split(rows[:whole], MOMENT_ROWS):
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


# --- Kernel Inception distance (Binkowski et al. 2018) ---------------------------------------------------------------

KERNEL_ROWS = 250
"""Features of a set whose pairs with all later features are computed at once."""


def kernel_inception_distance(
    a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the kernel Inception distance, KID: mean and standard deviation of `polynomial_mmd2` over random subsets.

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
    for start in range(0, len(x), KERNEL_ROWS):
        block, later = x[start : start + KERNEL_ROWS], x[start + KERNEL_ROWS :]
        total += _kernel_sum(block, block) - _kernel_diagonal(block) + 2 * _kernel_sum(block, later)
    return total


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    products = (x @ y.T).mul_(1 / x.shape[1]).add_(1)
    return float((products.square() * products).sum(dtype=torch.float64))


def _kernel_diagonal(x: Tensor) -> float:
    """Return the sum of the kernel over pairs of a feature with itself, rounded as in `_kernel_sum`."""
    products = x.square().sum(dim=1).mul_(1 / x.shape[1]).add_(1)
    return float((products.square() * products).sum(dtype=torch.float64))


# --- Inception score (Salimans et al. 2016) --------------------------------------------------------------------------


def inception_score(logits: Tensor, splits: int = 10, seed: int | None = 0) -> tuple[float, float]:
    """Return the Inception score, IS: mean and standard deviation over splits of exp(E KL(p(y|x) || p(y))).

    It is high if the class of each image is certain and the classes of the set are many. p(y) is the mean over a split,
    as in the authors' code. The literature uses 10 splits of 50,000 images; smaller splits give lower scores.

    Args:
        logits: [N, classes], float; for probabilities give their logarithms.
        splits: number of parts, of equal size up to one image.
        seed: of the random assignment of images to splits; None keeps their order, in which a set that is sorted by
            classes has splits of one class.

    Returns:
        The mean, from 1 (all images have the same class probabilities) to the number of classes, and the deviation.

    Raises:
        FormatError: there are fewer images than splits.

    References:
        Salimans et al. 2016, "Improved Techniques for Training GANs", section 4.

    Examples:
        Ten classes, each image certain:

        >>> score, deviation = inception_score(100 * torch.eye(10).repeat(20, 1), splits=1)
        >>> round(score, 6), deviation
        (10.0, 0.0)
    """
    count = len(logits)
    if not 1 <= splits <= count:
        raise FormatError(f"IS of {count} images in {splits} splits: take more images or fewer splits")
    order = torch.arange(count) if seed is None else torch.from_numpy(np.random.default_rng(seed).permutation(count))
    scores = [_split_score(logits[part.to(logits.device)]) for part in order.tensor_split(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(logits: Tensor) -> float:
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    log_mean = torch.logsumexp(log_p, dim=0) - np.log(len(log_p))
    divergence = p * (log_p - log_mean)
    return float(divergence.masked_fill(p == 0, 0).sum(dim=1).mean().exp())
