"""Distance of two distributions on many lines at once, by counting: no projection is kept, and none is sorted.

The Wasserstein-1 distance on a line is the area between the two distribution functions (Vallender 1974), and it is the
mean absolute difference of the sorted values. Where only the functions' values on a lattice are known, the area is a
sum of trapezoids. The lattice is as fine as 1/1000 of a value, 1/16000 near 0, where the standard deviation of all
components is 1. How far a value lies from the lattice is as good as random, so that errors cancel: over 512 directions
the sum agrees with sorting within some 1e-5 of the distance, and takes a tenth of the time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.threads import in_threads

NEAR, FAR = 2.0**-4, 2.0**14
"""Values are shifted outwards by NEAR, so that the lattice of floating point numbers has no needless detail at 0. No
projection of a descriptor is as far out as FAR, as the descriptors' variance is 1 and there are a few million."""

BITS = 10
"""Of the mantissa of a floating point number that say which bucket it falls into."""

SHIFT = 23 - BITS
LOWEST, HIGHEST = (int(torch.tensor(value).view(torch.int32)) >> SHIFT for value in (NEAR, FAR))
HALF = HIGHEST - LOWEST
"""Buckets of the positive numbers; the negative ones have as many."""

DIRECTIONS_A_JOB = 64
"""Directions that a thread has to itself for the points of one call."""

ROWS, COUNTED_ROWS = 2048, 16_384
"""Points that are projected at once, and whose projections are counted at once: the former stay in the cache, and for
the latter a direction's counts are fetched into it."""

COUNTED_DIRECTIONS = 4
"""Directions that are counted at once, for the same reason."""


class DistributionGap:
    """How far two clouds of points are apart along each of many directions, as the points come in.

    Args:
        directions: unit vectors, float32 [D, K].
        moments: of either cloud, mean and standard deviation of each component, float64 [D] each, the latter above 0.
            Points are normalised by them.
        device: where points lie.
    """

    def __init__(
        self, directions: Tensor, moments: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], device: torch.device
    ) -> None:
        self._weights, self._shifts = [], []
        for mean, deviation in moments:  # directions are divided instead of points
            weights = directions.double().cpu() / deviation.cpu()[:, None]
            self._weights.append(weights.T.float().contiguous().to(device))
            self._shifts.append(-(mean.cpu() @ weights).float()[:, None].to(device))
        self._counts = torch.zeros((directions.shape[1], 2 * HALF), dtype=torch.int32, device=device)
        self._points = [0, 0]

    def add(self, side: int, points: Tensor) -> None:
        """Count points of the first cloud, side 0, or the second, side 1; on a CPU by all threads that torch has.

        Numbers are added up, so neither order nor threads matter.

        Args:
            side: 0 or 1.
            points: float32 [M, D], not normalised.
        """
        self._points[side] += len(points)
        if points.device.type != "cpu":
            self._count(side, points, slice(None), len(self._counts))
            return
        jobs = (slice(i, i + DIRECTIONS_A_JOB) for i in range(0, len(self._counts), DIRECTIONS_A_JOB))
        for _ in in_threads(lambda part: self._count(side, points, part, COUNTED_DIRECTIONS), jobs, points.device):
            pass

    def _count(self, side: int, points: Tensor, part: slice, at_once: int) -> None:
        weights, shift, counts = self._weights[side][part], self._shifts[side][part], self._counts[part]
        rows = min(COUNTED_ROWS, len(points))
        projections = torch.empty((len(weights), rows), device=points.device)
        one = torch.full((at_once, rows), 1 - 2 * side, dtype=torch.int32, device=points.device)
        step = ROWS if points.device.type == "cpu" else rows
        for some in torch.split(points, rows):
            found = projections[:, : len(some)]
            for few, place in zip(torch.split(some, step), torch.split(found, step, dim=1), strict=True):
                torch.addmm(shift, weights, few.T, out=place)
            for values, count in zip(torch.split(found, at_once), torch.split(counts, at_once), strict=True):
                count.scatter_add_(1, _bucket(values).long(), one[: len(values)])

    def distance(self) -> float:
        """Return the mean over directions of the Wasserstein-1 distance.

        Raises:
            FormatError: the clouds have unequal numbers of points, or none.
        """
        if self._points[0] != self._points[1] or not self._points[0]:
            raise FormatError(f"two clouds of as many points are needed, got {self._points[0]} and {self._points[1]}")
        width = _edges().diff()
        around = ((width + torch.cat([width[1:], width[-1:]])) / 2).to(self._counts.device)

        def area(counts: Tensor) -> float:
            return float((counts.cumsum(dim=1, dtype=torch.int32).abs_().double() @ around).sum())

        parts = torch.split(self._counts, DIRECTIONS_A_JOB)
        total = math.fsum(in_threads(area, parts, self._counts.device))
        return total / self._points[0] / len(self._counts)


def _bucket(values: Tensor) -> Tensor:
    """Return the number of the bucket that each value falls into, rising with it: float32 -> int32 in [0, 2 HALF)."""
    magnitude = values.abs().add_(NEAR).view(torch.int32).bitwise_right_shift_(SHIFT)
    number = magnitude.sub_(LOWEST).clamp_(max=HALF - 1)
    return number.bitwise_xor_(values.view(torch.int32) >> 31).add_(HALF)  # i becomes -1 - i below 0


def _edges() -> Tensor:
    """Return the edges of the buckets, float64 [2 HALF + 1], rising."""
    bits = torch.arange(LOWEST, HIGHEST + 1, dtype=torch.int32) << SHIFT
    positive = bits.view(torch.float32).double() - NEAR
    return torch.cat([-positive[1:].flip(0), positive])
