"""Patch descriptors of images at all levels of a Laplacian pyramid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.metrics.laplacian import laplacian_pyramid
from celebahq_builder.parallel import run_threads

PATCH_PX = 7
PATCHES_PER_IMAGE = 128
"""Neighbourhoods drawn from each image and level."""

IMAGES_PER_DRAW = 64
"""Images whose places are one draw of a random generator; making one takes as long as a thousand of its numbers."""


def draw_positions(stream: Sequence[int], resolution: int, start: int, stop: int) -> NDArray[np.int64]:
    """Return where the neighbourhoods of images number `start` to `stop` - 1 lie: uniform, fully inside.

    An image's places follow from its number, the stream and the resolution alone.

    Args:
        stream: what sets the draws apart from others; numbers of at least 0.
        resolution: of the level, in pixels, at least 7.
        start: number of the first image.
        stop: number after the last.

    Returns:
        Top and left pixel, int64 [stop - start, PATCHES, 2].
    """
    blocks = range(start // IMAGES_PER_DRAW, -(-stop // IMAGES_PER_DRAW))
    drawn = [
        np.random.default_rng((*stream, block)).integers(
            resolution - PATCH_PX + 1, size=(IMAGES_PER_DRAW, PATCHES_PER_IMAGE, 2)
        )
        for block in blocks
    ]
    first = blocks.start * IMAGES_PER_DRAW
    return np.concatenate(drawn)[start - first : stop - first]


def extract_patches(level: Tensor, places: NDArray[np.int64]) -> Tensor:
    """Return neighbourhoods of the images of a level as vectors: rows, pixels in them, channels.

    Args:
        level: float [N, r, r, C], contiguous.
        places: [N, P, 2].

    Returns:
        [N * P, 49 C], of the level's type and on its device.
    """
    n, side, _, channels = level.shape
    image = np.arange(n)[:, None]
    first = ((image * side + places[..., 0]) * side + places[..., 1]).ravel()
    # Every window of the level, as rows of pixels that lie side by side; counted as if windows could wrap around.
    shape = (n * side * side - (PATCH_PX - 1) * (side + 1), PATCH_PX, PATCH_PX * channels)
    steps = (channels, side * channels, 1)
    cut_of = _by_numpy if level.device.type == "cpu" else _by_torch
    return cut_of(level, first, shape, steps).flatten(1)


def _by_numpy(level: Tensor, first: NDArray[np.int64], shape: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    """Copy whole rows, where torch copies number by number."""
    pixels = level.numpy()
    windows = as_strided(pixels, shape, tuple(step * pixels.itemsize for step in steps), writeable=False)
    return torch.from_numpy(windows[first])


def _by_torch(level: Tensor, first: NDArray[np.int64], shape: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    return level.as_strided(shape, steps)[torch.from_numpy(first).to(level.device)]


def channel_sums(descriptors: Tensor, images: int) -> Tensor:
    """Return the sums of all values of each channel, and of their squares, image by image.

    Shapes: float32 [N * P, 49 C] -> float64 [N, 2, C].
    """
    by_image = descriptors.view(images, -1, descriptors.shape[1])
    sums = []
    for values in (by_image, by_image.double().square_()):
        sums.append(values.sum(dim=1, dtype=torch.float64).view(images, PATCH_PX**2, -1).sum(dim=1))
    return torch.stack(sums, dim=1)


COARSEST_PX = 16
"""The coarsest level, which holds all that is left of the images."""

BLOCK_IMAGES = 256
"""Images whose descriptors are projected together."""

PIECE_BYTES, DEVICE_PIECE_BYTES = 1 << 20, 1 << 25
"""Of pixels whose pyramid is built at once; on a CPU it stays in the cache, as floating point numbers too."""


def laplacian_levels(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of a pyramid's levels, largest first: R, R/2, ..., 16."""
    return tuple(resolution >> k for k in range((resolution // COARSEST_PX).bit_length()))


def stored_values_per_channel(level: int) -> int:
    """Return how many pixels of an image are stored at a level: its descriptors', or all if they are fewer."""
    return min(level**2, PATCHES_PER_IMAGE * PATCH_PX**2)


@dataclass(frozen=True)
class LevelDescriptors:
    """What some images that follow each other give at one level."""

    pixels: Tensor
    """float32 [n, r, r, C]."""
    descriptors: Tensor
    """float32 [n * PATCHES, 49 C]."""
    sums: Tensor
    """float64 [n, 2, C]: of each channel's values and of their squares."""


@dataclass(frozen=True)
class DescriptorSampler:
    """Draws the descriptors of images."""

    resolution: int
    streams: dict[int, Sequence[int]]
    """By level, what sets its draws apart from others."""
    device: torch.device

    def samples(self, batches: Iterator[Tensor]) -> Iterator[tuple[int, list[LevelDescriptors]]]:
        """Yield the number of an image and what it and some after it give at all levels, in order.

        On a CPU as many threads are at work as torch has. Which images go together depends on the batches; no
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
                size = min(most, len(batch) - done, BLOCK_IMAGES - number % BLOCK_IMAGES)
                yield number, batch[done : done + size]
                done, number = done + size, number + size

    def _sample(self, piece: tuple[int, Tensor]) -> tuple[int, list[LevelDescriptors]]:
        start, images = piece
        pyramid = laplacian_pyramid(images.to(self.device), COARSEST_PX)
        found = []
        for level, pixels in zip(laplacian_levels(self.resolution), pyramid, strict=True):
            descriptors = extract_patches(
                pixels, draw_positions(self.streams[level], level, start, start + len(images))
            )
            found.append(LevelDescriptors(pixels, descriptors, channel_sums(descriptors, len(images))))
        return start, found
