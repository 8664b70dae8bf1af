"""Sliced Wasserstein distance of two sets of points (Rabin et al. 2011).

Rabin et al., "Wasserstein Barycenter and Its Application to Texture Mixing".

Both sets are projected on random directions. Along one direction the Wasserstein-1 distance of two sets of M numbers is
the mean absolute difference of the sorted numbers (`sliced_wasserstein`). It is also the area between the two empirical
distribution functions, which needs no sorting: `StreamingSlicedWasserstein` rounds each projection to half precision
and counts how often each of the 65,536 possible values occurs. Points may then arrive in any order and need not be
stored. The rounding errors are relative and of either sign; the relative error of the distance is about 1e-5.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.batches import map_in_threads

DIRECTIONS = 512
"""Random projection directions: the 4 repeats of 128 of Karras et al. 2018."""

HALF_VALUES = 1 << 16
"""Values of half precision. Its range suffices: of M points with variance 1, no component exceeds sqrt(M)."""

DIRECTIONS_PER_JOB = 128
"""Directions that one thread counts for the points of one call."""

PROJECTED_ROWS, COUNTED_ROWS, COUNTED_DIRECTIONS = 1024, 32_768, 4
"""Points that are projected at once, points that are counted at once, and directions that are counted at once on a CPU:
with these, projections and counts stay in the cache."""


def random_directions(dimensions: int, rng: np.random.Generator, count: int = DIRECTIONS) -> Tensor:
    """Return `count` unit vectors that are uniform on the sphere: float32 [dimensions, count]."""
    drawn = rng.standard_normal((dimensions, count)).astype(np.float32)
    return torch.from_numpy(drawn / np.sqrt(np.square(drawn).sum(axis=0, keepdims=True)))


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Return the sliced Wasserstein distance of two sets of points in memory, by sorting.

    Args:
        a: points [M, D], float.
        b: the same number of points.
        directions: unit vectors [D, K].

    Returns:
        The mean over directions of the mean absolute difference of the sorted projections; Karras et al. 2018 report it
        times 1000.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> points = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        >>> sliced_wasserstein(points, points.flip(0) + torch.tensor([0.5, 0.0]), torch.eye(2))
        0.25
    """
    if a.shape != b.shape:
        raise ValueError(f"two sets of the same number of points are needed, got {tuple(a.shape)} and {tuple(b.shape)}")
    total = 0.0
    for part in torch.split(directions.to(a.device), 128, dim=1):
        total += float((_sorted_projections(a, part) - _sorted_projections(b, part)).abs().mean()) * part.shape[1]
    return total / directions.shape[1]


def _sorted_projections(points: Tensor, directions: Tensor) -> Tensor:
    """Return projections on K directions, sorted, [K, M]; sorting along contiguous memory is faster."""
    return (points @ directions).T.contiguous().sort(dim=1).values


class StreamingSlicedWasserstein:
    """Sliced Wasserstein distance of two sets of points that arrive in blocks, by counting; see the module's docstring.

    Args:
        directions: unit vectors, float32 [D, K].
        moments: for each set, the mean and standard deviation of each component, float64 [D] each, the latter above 0.
            Points are normalized by them.

    Examples:
        >>> points = torch.arange(8.0).view(4, 2)
        >>> moments = points.double().mean(dim=0), points.double().std(dim=0, correction=0)
        >>> distance = StreamingSlicedWasserstein(torch.eye(2), (moments, moments), torch.device("cpu"))
        >>> distance.add(0, points[:3])
        >>> distance.add(1, points.flip(0))
        >>> distance.add(0, points[3:])
        >>> distance.compute()
        0.0
    """

    def __init__(
        self, directions: Tensor, moments: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], device: torch.device
    ) -> None:
        self._weights, self._shifts = [], []
        for mean, deviation in moments:  # normalizing the directions is cheaper than normalizing the points
            weights = directions.double().cpu() / deviation.cpu()[:, None]
            self._weights.append(weights.T.float().contiguous().to(device))
            self._shifts.append(-(mean.cpu() @ weights).float()[:, None].to(device))
        # Occurrences in the first set minus those in the second, for each direction and value.
        self._counts = torch.zeros((directions.shape[1], HALF_VALUES), dtype=torch.int32, device=device)
        self._points = [0, 0]

    def add(self, side: int, points: Tensor) -> None:
        """Count the projections of some points; on a CPU with torch's number of threads.

        Counts are integers, so neither order nor threads affect the result.

        Args:
            side: 0 for the first set, 1 for the second.
            points: float32 [M, D], not normalized.
        """
        self._points[side] += len(points)
        if points.device.type != "cpu":
            self._count(side, points, slice(None), len(self._counts))
            return
        jobs = (slice(i, i + DIRECTIONS_PER_JOB) for i in range(0, len(self._counts), DIRECTIONS_PER_JOB))
        for _ in map_in_threads(lambda part: self._count(side, points, part, COUNTED_DIRECTIONS), jobs, points.device):
            pass

    def _count(self, side: int, points: Tensor, part: slice, at_once: int) -> None:
        """Count the projections on a part of the directions, in buffers that are allocated once."""
        weights, shift, counts = self._weights[side][part], self._shifts[side][part], self._counts[part]
        rows = min(COUNTED_ROWS, len(points))
        step = PROJECTED_ROWS if points.device.type == "cpu" else rows
        projections = torch.empty((len(weights), min(step, rows)), device=points.device)
        halves = torch.empty((len(weights), rows), dtype=torch.half, device=points.device)
        sign = torch.full((at_once, rows), 1 - 2 * side, dtype=torch.int32, device=points.device)
        for counted in torch.split(points, rows):
            found = halves[:, : len(counted)]
            for block, target in zip(torch.split(counted, step), torch.split(found, step, dim=1), strict=True):
                target.copy_(torch.addmm(shift, weights, block.T, out=projections[:, : len(block)]))
            for values, count in zip(torch.split(found, at_once), torch.split(counts, at_once), strict=True):
                count.scatter_add_(1, _half_index(values), sign[: len(values)])

    def compute(self) -> float:
        """Return the sliced Wasserstein distance: the mean over directions of the area between the distributions.

        Raises:
            FormatError: the sets have different numbers of points, or none.
        """
        if self._points[0] != self._points[1] or not self._points[0]:
            raise FormatError(
                f"two sets of the same number of points are needed, got {self._points[0]} and {self._points[1]}"
            )
        widths = _half_values().diff().to(self._counts.device)

        def area(counts: Tensor) -> float:
            negative, positive = counts.chunk(2, dim=1)
            rising = torch.cat([negative.flip(1), positive], dim=1)[:, :-1]
            return float((rising.cumsum(dim=1, dtype=torch.int32).abs_().double() @ widths).sum())

        parts = torch.split(self._counts, DIRECTIONS_PER_JOB)
        total = math.fsum(map_in_threads(area, parts, self._counts.device))
        return total / self._points[0] / len(self._counts)


def _half_index(values: Tensor) -> Tensor:
    """Return the index of each half-precision value, half -> int64. Negative values come first, from -0 downwards."""
    return values.view(torch.int16).long().add_(HALF_VALUES // 2)


def _half_values() -> Tensor:
    """Return all values of half precision, rising: float64 [HALF_VALUES]. Infinities and NaN become its largest."""
    positive = torch.arange(HALF_VALUES // 2, dtype=torch.int16).view(torch.half).double()
    positive = positive.nan_to_num(nan=torch.inf).clamp_(max=torch.finfo(torch.half).max)
    return torch.cat([-positive.flip(0), positive])
