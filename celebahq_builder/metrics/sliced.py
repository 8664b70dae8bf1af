"""Sliced Wasserstein distance of two sets of points, by sorting or by counting."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.batches import map_in_threads

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


HALF_VALUES = 1 << 16
"""Of half precision. No projection is too large for it: a component's variance is 1, and there are some millions."""

DIRECTIONS_A_JOB = 128
"""Directions that a thread has to itself for the points of one call."""

ROWS, COUNTED_ROWS = 1024, 32_768
"""Points that are projected at once, and whose projections are counted at once: the former stay in the cache, and for
the latter a direction's counts are fetched into it."""

COUNTED_DIRECTIONS = 4
"""Directions that are counted at once, for the same reason."""


class StreamingSlicedWasserstein:
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
        self._counts = torch.zeros((directions.shape[1], HALF_VALUES), dtype=torch.int32, device=device)
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
        for _ in map_in_threads(lambda part: self._count(side, points, part, COUNTED_DIRECTIONS), jobs, points.device):
            pass

    def _count(self, side: int, points: Tensor, part: slice, at_once: int) -> None:
        weights, shift, counts = self._weights[side][part], self._shifts[side][part], self._counts[part]
        rows = min(COUNTED_ROWS, len(points))
        step = ROWS if points.device.type == "cpu" else rows
        room = torch.empty((len(weights), min(step, rows)), device=points.device)
        halves = torch.empty((len(weights), rows), dtype=torch.half, device=points.device)
        one = torch.full((at_once, rows), 1 - 2 * side, dtype=torch.int32, device=points.device)
        for some in torch.split(points, rows):
            found = halves[:, : len(some)]
            for few, place in zip(torch.split(some, step), torch.split(found, step, dim=1), strict=True):
                place.copy_(torch.addmm(shift, weights, few.T, out=room[:, : len(few)]))
            for values, count in zip(torch.split(found, at_once), torch.split(counts, at_once), strict=True):
                count.scatter_add_(1, _half_index(values), one[: len(values)])

    def distance(self) -> float:
        """Return the mean over directions of the Wasserstein-1 distance.

        Raises:
            FormatError: the clouds have unequal numbers of points, or none.
        """
        if self._points[0] != self._points[1] or not self._points[0]:
            raise FormatError(f"two clouds of as many points are needed, got {self._points[0]} and {self._points[1]}")
        steps = _half_values().diff().to(self._counts.device)

        def area(counts: Tensor) -> float:
            negative, positive = counts.chunk(2, dim=1)
            rising = torch.cat([negative.flip(1), positive], dim=1)[:, :-1]
            return float((rising.cumsum(dim=1, dtype=torch.int32).abs_().double() @ steps).sum())

        parts = torch.split(self._counts, DIRECTIONS_A_JOB)
        total = math.fsum(map_in_threads(area, parts, self._counts.device))
        return total / self._points[0] / len(self._counts)


def _half_index(values: Tensor) -> Tensor:
    """Return which one of half precision each value is: half -> int64; negative ones first, 0 down."""
    return values.view(torch.int16).long().add_(HALF_VALUES // 2)


def _half_values() -> Tensor:
    """Return the values of half precision, rising: float64 [VALUES]. Infinity and what is no number are its largest."""
    positive = torch.arange(HALF_VALUES // 2, dtype=torch.int16).view(torch.half).double()
    positive = positive.nan_to_num(nan=torch.inf).clamp_(max=torch.finfo(torch.half).max)
    return torch.cat([-positive.flip(0), positive])
