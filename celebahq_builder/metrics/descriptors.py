"""Laplacian pyramid, and patch descriptors: random 7x7 neighbourhoods of images at the levels of the pyramid.

The pyramid is that of Burt and Adelson 1983, "The Laplacian Pyramid as a Compact Image Code", with OpenCV's filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.parallel import run_threads

# --- Pyramid ------------------------------------------------------------------------------------------------------

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Filter of the pyramid along each axis, as in cv2.pyrDown (Burt and Adelson's with a = 3/8)."""


def pyramid_down(images: Tensor) -> Tensor:
    """Halve images as cv2.pyrDown does: binomial filter, mirrored border, every second pixel.

    Shapes: float [N, C, H, W] -> [N, C, ceil(H / 2), ceil(W / 2)], H and W at least 3.
    """
    for axis, border in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded = F.pad(images, border, mode="reflect")
        length = images.shape[axis]
        every_second = (..., slice(None, None, 2)) + (slice(None),) * (3 - axis)
        taps = (padded.narrow(axis, k, length)[every_second] * weight for k, weight in enumerate(BINOMIAL))
        images = sum(taps, start=images.new_zeros(()))
    return images


def pyramid_up(images: Tensor) -> Tensor:
    """Double images as cv2.pyrUp does: zeros between the pixels, then the binomial filter times 4.

    Shapes: float [N, C, H, W] -> [N, C, 2H, 2W], H and W at least 2.
    """
    for axis, before, after in ((3, (1, 0, 0, 0), (0, 1, 0, 0)), (2, (0, 0, 1, 0), (0, 0, 0, 1))):
        # OpenCV mirrors after inserting the zeros, so beyond the last pixel it sees that pixel again.
        padded = F.pad(F.pad(images, before, mode="reflect"), after, mode="replicate")
        length = images.shape[axis]
        left, middle, right = (padded.narrow(axis, k, length) for k in range(3))
        pair = torch.stack([(left + 6 * middle + right) / 8, (middle + right) / 2], dim=axis + 1)
        images = pair.flatten(axis, axis + 1)
    return images


def laplacian_level(images: Tensor) -> Tensor:
    """Return the finest level of the Laplacian pyramid: images minus themselves halved and doubled again.

    Shapes: float [N, C, H, W] -> the same.

    Examples:
        >>> float(laplacian_level(torch.full((1, 3, 16, 16), 7.0)).abs().max())
        0.0
    """
    height, width = images.shape[-2:]
    return images - pyramid_up(pyramid_down(images))[..., :height, :width]


def laplacian_pyramid(images: Tensor, smallest: int) -> Iterator[Tensor]:
    """Yield the levels of the Laplacian pyramid, finest first; the last level is the low pass, the reduced images.

    On a CPU OpenCV filters the images one by one in the calling thread; elsewhere torch filters them together. Both
    agree within 1e-3 grey levels.

    Args:
        images: [N, C, H, W], uint8 or float, C 1 or 3.
        smallest: images are halved until a side is at most this many px long.

    Yields:
        float32 [N, h, w, C] in the images' unit, channels last, on the images' device.

    Examples:
        >>> [tuple(level.shape) for level in laplacian_pyramid(torch.zeros(2, 3, 64, 64), smallest=16)]
        [(2, 64, 64, 3), (2, 32, 32, 3), (2, 16, 16, 3)]
    """
    on_cpu = images.device.type == "cpu"
    return _pyramid_by_opencv(images, smallest) if on_cpu else _pyramid_by_torch(images, smallest)


def _pyramid_by_torch(images: Tensor, smallest: int) -> Iterator[Tensor]:
    current = images.float()
    while min(current.shape[2:]) > smallest:
        half = pyramid_down(current)
        height, width = current.shape[2:]
        yield (current - pyramid_up(half)[..., :height, :width]).permute(0, 2, 3, 1).contiguous()
        current = half
    yield current.permute(0, 2, 3, 1).contiguous()


def _pyramid_by_opencv(images: Tensor, smallest: int) -> Iterator[Tensor]:
    n, channels = images.shape[:2]
    current = [cv2.merge(list(image)).astype(np.float32) for image in images.contiguous().numpy()]
    while min(current[0].shape[:2]) > smallest:
        height, width = current[0].shape[:2]
        level = np.empty((n, *current[0].shape), dtype=np.float32)
        halves = [cv2.pyrDown(image) for image in current]
        for image, half, difference in zip(current, halves, level, strict=True):
            np.subtract(image, cv2.pyrUp(half, dstsize=(width, height)), out=difference)
        yield torch.from_numpy(level.reshape(n, height, width, channels))
        current = halves
    height, width = current[0].shape[:2]
    yield torch.from_numpy(np.stack(current).reshape(n, height, width, channels))


# --- Descriptors --------------------------------------------------------------------------------------------------

PATCH_PX = 7

PATCHES_PER_IMAGE = 128
"""Patches drawn from each level of an image."""

COARSEST_PX = 16
"""Resolution of the coarsest level, which is the low pass of the pyramid."""

IMAGES_PER_DRAW = 64
"""Images whose patch positions come from one random generator; to create one takes as long as 1000 of its numbers."""

BLOCK_IMAGES = 256
"""Images whose descriptors are projected together."""

PYRAMID_BYTES, DEVICE_PYRAMID_BYTES = 1 << 20, 1 << 25
"""Pixels whose pyramid is built at once, on a CPU (where it stays in the cache, also in float32) and elsewhere."""


def laplacian_levels(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of the levels of a pyramid, largest first: R, R/2, ..., 16."""
    return tuple(resolution >> k for k in range((resolution // COARSEST_PX).bit_length()))


def draw_positions(stream: Sequence[int], resolution: int, start: int, stop: int) -> NDArray[np.int64]:
    """Draw the positions of the patches of images `start` to `stop` - 1: uniform, fully inside the level.

    The positions of an image depend only on its number, the stream and the resolution.

    Args:
        stream: seed of the random generators; integers of at least 0.
        resolution: of the level in px, at least 7.

    Returns:
        Top and left pixel of each patch, int64 [stop - start, PATCHES_PER_IMAGE, 2].
    """
    blocks = range(start // IMAGES_PER_DRAW, -(-stop // IMAGES_PER_DRAW))
    size = (IMAGES_PER_DRAW, PATCHES_PER_IMAGE, 2)
    drawn = [np.random.default_rng((*stream, block)).integers(resolution - PATCH_PX + 1, size=size) for block in blocks]
    first = blocks.start * IMAGES_PER_DRAW
    return np.concatenate(drawn)[start - first : stop - first]


def extract_patches(level: Tensor, positions: NDArray[np.int64]) -> Tensor:
    """Return the patches of the images of a level as descriptors: vectors ordered by row, column, channel.

    Args:
        level: float [N, r, r, C], contiguous.
        positions: top and left pixel, [N, P, 2].

    Returns:
        [N * P, 49 C], of the level's type and on its device.
    """
    n, side, _, channels = level.shape
    image = np.arange(n)[:, None]
    first = ((image * side + positions[..., 0]) * side + positions[..., 1]).ravel()
    # A view of all windows of the level, numbered by their first pixel, including those that wrap around its edges.
    shape = (n * side * side - (PATCH_PX - 1) * (side + 1), PATCH_PX, PATCH_PX * channels)
    strides = (channels, side * channels, 1)
    extract = _patches_by_numpy if level.device.type == "cpu" else _patches_by_torch
    return extract(level, first, shape, strides).flatten(1)


def _patches_by_numpy(
    level: Tensor, first: NDArray[np.int64], shape: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    """Copy whole rows of patches, which is faster than torch's copy of single values."""
    pixels = level.numpy()
    windows = as_strided(pixels, shape, tuple(stride * pixels.itemsize for stride in strides), writeable=False)
    return torch.from_numpy(windows[first])


def _patches_by_torch(
    level: Tensor, first: NDArray[np.int64], shape: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    return level.as_strided(shape, strides)[torch.from_numpy(first).to(level.device)]


def channel_sums(descriptors: Tensor, images: int) -> Tensor:
    """Return the sums of the values and of the squared values of each channel, for each image.

    Shapes: float32 [N * P, 49 C] -> float64 [N, 2, C].
    """
    by_image = descriptors.view(images, -1, descriptors.shape[1])
    sums = []
    for values in (by_image, by_image.double().square_()):
        sums.append(values.sum(dim=1, dtype=torch.float64).view(images, PATCH_PX**2, -1).sum(dim=1))
    return torch.stack(sums, dim=1)


@dataclass(frozen=True)
class LevelDescriptors:
    """Descriptors of consecutive images at one level."""

    pixels: Tensor
    """The level itself, float32 [n, r, r, C]."""
    descriptors: Tensor
    """float32 [n * PATCHES_PER_IMAGE, 49 C]."""
    sums: Tensor
    """Sums of each channel's values and of their squares, float64 [n, 2, C]."""


@dataclass(frozen=True)
class DescriptorSampler:
    """Random descriptors of images at all levels of their pyramids."""

    resolution: int
    streams: dict[int, Sequence[int]]
    """Seed of the positions at each level."""
    device: torch.device

    def sample(self, batches: Iterator[Tensor]) -> Iterator[tuple[int, list[LevelDescriptors]]]:
        """Yield the number of an image, and the descriptors of it and of some images after it at all levels, in order.

        On a CPU as many threads work as torch has. Images are grouped as the batches allow, which affects no number;
        no group crosses a multiple of `BLOCK_IMAGES`.
        """
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        return run_threads(self._sample_group, self._groups(batches), workers=workers)

    def _groups(self, batches: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
        number = 0
        limit = PYRAMID_BYTES if self.device.type == "cpu" else DEVICE_PYRAMID_BYTES
        for batch in batches:
            done, size_max = 0, max(1, limit // batch[0].numel())
            while done < len(batch):
                size = min(size_max, len(batch) - done, BLOCK_IMAGES - number % BLOCK_IMAGES)
                yield number, batch[done : done + size]
                done, number = done + size, number + size

    def _sample_group(self, group: tuple[int, Tensor]) -> tuple[int, list[LevelDescriptors]]:
        start, images = group
        pyramid = laplacian_pyramid(images.to(self.device), COARSEST_PX)
        samples = []
        for level, pixels in zip(laplacian_levels(self.resolution), pyramid, strict=True):
            positions = draw_positions(self.streams[level], level, start, start + len(images))
            descriptors = extract_patches(pixels, positions)
            samples.append(LevelDescriptors(pixels, descriptors, channel_sums(descriptors, len(images))))
        return start, samples
