"""Descriptors of all levels of a set of pictures, drawn as the pictures are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES, channel_sums, cut, draw_places
from celebahq_builder.metrics.laplacian import laplacian_pyramid
from celebahq_builder.parallel import run_threads

SMALLEST_PX = 16
"""The coarsest level, which holds all that is left of the pictures."""

BLOCK = 256
"""Pictures whose descriptors are projected together."""

PIECE_BYTES, DEVICE_PIECE_BYTES = 1 << 20, 1 << 25
"""Of pixels whose pyramid is built at once; on a CPU it stays in the cache, as floating point numbers too."""


def levels(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of a pyramid's levels, largest first: R, R/2, ..., 16."""
    return tuple(resolution >> k for k in range((resolution // SMALLEST_PX).bit_length()))


def stored_values(level: int) -> int:
    """Return how many pixels of a picture are stored at a level: its descriptors', or all if they are fewer."""
    return min(level**2, PATCHES * PATCH_PX**2)


@dataclass(frozen=True)
class LevelSample:
    """What some pictures that follow each other give at one level."""

    pixels: Tensor
    """float32 [n, r, r, C]."""
    descriptors: Tensor
    """float32 [n * PATCHES, 49 C]."""
    sums: Tensor
    """float64 [n, 2, C]: of each channel's values and of their squares."""


@dataclass(frozen=True)
class Sampler:
    """Draws the descriptors of pictures."""

    resolution: int
    streams: dict[int, Sequence[int]]
    """By level, what sets its draws apart from others."""
    device: torch.device

    def samples(self, batches: Iterator[Tensor]) -> Iterator[tuple[int, list[LevelSample]]]:
        """Yield the number of a picture and what it and some after it give at all levels, in order.

        On a CPU as many threads are at work as torch has. Which pictures go together depends on the batches; no
        number does. No more than `BLOCK` follow each other without a break at its multiples.
        """
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        return run_threads(self._sample, self._pieces(batches), workers=workers)

    def _pieces(self, batches: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
        number = 0
        limit = PIECE_BYTES if self.device.type == "cpu" else DEVICE_PIECE_BYTES
        for batch in batches:
            done, most = 0, max(1, limit // batch[0].numel())
            while done < len(batch):
                size = min(most, len(batch) - done, BLOCK - number % BLOCK)
                yield number, batch[done : done + size]
                done, number = done + size, number + size

    def _sample(self, piece: tuple[int, Tensor]) -> tuple[int, list[LevelSample]]:
        start, pictures = piece
        pyramid = laplacian_pyramid(pictures.to(self.device), SMALLEST_PX)
        found = []
        for level, pixels in zip(levels(self.resolution), pyramid, strict=True):
            descriptors = cut(pixels, draw_places(self.streams[level], level, start, start + len(pictures)))
            found.append(LevelSample(pixels, descriptors, channel_sums(descriptors, len(pictures))))
        return start, found
