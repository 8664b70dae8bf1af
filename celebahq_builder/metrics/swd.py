"""Sliced Wasserstein distance of two sets of images (Karras et al. 2018, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.metrics.batches import Batches, take_images
from celebahq_builder.metrics.descriptors import (
    BLOCK_IMAGES,
    COARSEST_PX,
    PATCH_PX,
    PATCHES_PER_IMAGE,
    DescriptorSampler,
    LevelDescriptors,
    draw_positions,
    extract_patches,
    laplacian_levels,
    stored_values_per_channel,
)
from celebahq_builder.metrics.sliced import StreamingSlicedWasserstein, random_directions

FLAT = 1e-3
"""A standard deviation, in grey levels, that is none: nothing but rounding would be magnified."""

CHANGED = 1e-3
"""Relative difference of the finest level's variance between two readings that no rounding on a GPU explains."""

VALUES = PATCHES_PER_IMAGE * PATCH_PX**2
"""Of each channel of an image's descriptors at one level."""


class DescriptorSet:
    """Descriptors of the first images of a set, read once to know their deviation, and stored or read once more.

    Args:
        images: the set.
        name: what errors call it.
        count: images that are used.
        sampler: draws the descriptors.
        dtype: float32 or float16 to store what is drawn; None to read again.
        channels: that the images must have, or None.
        advance: called with the number of images done, in each pass.

    Raises:
        FormatError: fewer images than `count`, or others than expected.
    """

    def __init__(
        self,
        images: Batches,
        name: str,
        count: int,
        sampler: DescriptorSampler,
        dtype: torch.dtype | None,
        channels: int | None,
        advance: Callable[[int], None],
    ) -> None:
        self._images, self._name, self._count = images, name, count
        self._sampler, self._advance = sampler, advance
        self._levels = laplacian_levels(sampler.resolution)
        self._stores: list[LevelStore] = []
        self.channels = channels
        sums = torch.empty(0)
        for start, samples in self._read():
            if not start:
                self.channels = samples[0].pixels.shape[3]
                # one array: small ones that stay, amid large ones that go, would keep the latter's memory from use
                sums = torch.empty((len(self._levels), count, 2, self.channels), dtype=torch.float64)
                if dtype:
                    self._stores = [LevelStore(s, count, dtype) for s in samples]
            for index, sample in enumerate(samples):
                sums[index, start : start + len(sample.sums)] = sample.sums
                if dtype:
                    self._stores[index].put(start, sample)
        self._sums = sums.sum(dim=1)

    def moments(self, index: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each component of the descriptors at a level, float64 [49 C] each.

        Raises:
            FormatError: a channel is flat, which leaves nothing to divide by.
        """
        mean, square = self._sums[index] / (self._count * VALUES)
        deviation = (square - mean.square()).clamp_(min=0).sqrt()
        if float(deviation.min()) < FLAT:
            raise FormatError(
                f"{self._name}: the {self._count:,} images have no texture at level {self._levels[index]}, channel "
                f"{int(deviation.argmin())}: all neighbourhoods are flat; the SWD is undefined, is the generator sound?"
            )
        return mean.repeat(PATCH_PX**2), deviation.repeat(PATCH_PX**2)

    def stored(self, index: int) -> Iterator[Tensor]:
        """Yield the stored descriptors of a level, float32 [n * PATCHES, 49 C], a block of images at a time."""
        level, store = self._levels[index], self._stores[index]
        for start, values in store.blocks():
            if store.whole:
                yield extract_patches(
                    values, draw_positions(self._sampler.streams[level], level, start, start + len(values))
                )
            else:
                yield values

    def read_again(self) -> Iterator[list[Tensor]]:
        """Yield the descriptors of all levels in the same blocks, drawn again.

        Raises:
            FormatError: at the end, if the images were others than before.
        """
        now = torch.zeros(self._sums.shape[-1], dtype=torch.float64)
        waiting: list[list[Tensor]] = []  # without the pixels, which are many times as large
        for start, samples in self._read():
            if waiting and start % BLOCK_IMAGES == 0:
                yield [torch.cat(level) for level in zip(*waiting, strict=True)]
                waiting = []
            waiting.append([sample.descriptors for sample in samples])
            now += samples[0].sums[:, 1].sum(dim=0).cpu()
        yield [torch.cat(level) for level in zip(*waiting, strict=True)]
        if not torch.allclose(self._sums[0, 1], now, rtol=CHANGED):
            raise FormatError(
                f"{self._name} gave other images when it was read again; make it repeat itself (a fixed seed, no "
                "shuffling), or allow enough memory to read it once"
            )

    def _read(self) -> Iterator[tuple[int, list[LevelDescriptors]]]:
        resolution = self._sampler.resolution
        batches = take_images(self._images, self._count, name=self._name, resolution=resolution, channels=self.channels)
        for start, samples in self._sampler.samples(batches):
            yield start, samples
            self._advance(len(samples[0].sums))


class LevelStore:
    """The descriptors of one level, or its pixels where they are fewer: those can be cut again.

    Args:
        sample: of the first images; tells what will come.
        count: images.
        dtype: float32 or float16.
    """

    def __init__(self, sample: LevelDescriptors, count: int, dtype: torch.dtype) -> None:
        descriptors = sample.descriptors.view(len(sample.pixels), -1)
        self.whole = sample.pixels[0].numel() < descriptors.shape[1]
        shape = sample.pixels.shape[1:] if self.whole else (PATCHES_PER_IMAGE, sample.descriptors.shape[1])
        self._values = torch.empty((count, *shape), dtype=dtype, device=sample.pixels.device)

    def put(self, start: int, sample: LevelDescriptors) -> None:
        """Store what the images from number `start` on gave."""
        part = self._values[start : start + len(sample.pixels)]
        part.copy_((sample.pixels if self.whole else sample.descriptors).view(part.shape))

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of an image and what is stored of it and those after it: pixels, or descriptors as rows."""
        for start in range(0, len(self._values), BLOCK_IMAGES):
            values = self._values[start : start + BLOCK_IMAGES].float()
            yield start, values if self.whole else values.flatten(0, 1)


MEMORY_BYTES = 8 << 30
CPU = torch.device("cpu")

DIRECTIONS_STREAM = 2
"""Sets the draw of directions apart from those of the neighbourhoods of sides 0 and 1."""


def swd(
    a: Batches,
    b: Batches,
    *,
    resolution: int,
    count: int,
    seed: int = 0,
    device: torch.device = CPU,
    float16: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    names: tuple[str, str] = ("side a", "side b"),
    advance: Callable[[int], None] | None = None,
) -> dict[int, float]:
    """Return the sliced Wasserstein distance between two sets of images at each level, x 1000.

    Neighbourhoods are drawn for each image and side anew, as in the paper's code: an image that is on both sides is
    looked at in different places, so a set is not 0 away from itself, but as far as chance makes it. How the images
    come in batches changes nothing, nor do threads.

    Args:
        a: uint8 [n, C, R, R] batches, or float in [0, 255]; C is 3 or 1.
        b: likewise.
        resolution: R in pixels, a power of two, at least 16.
        count: images of each side that are used, its first ones; the paper takes 16,384.
        seed: of neighbourhoods and directions, at least 0.
        device: that computes and stores.
        float16: store in half the memory; distances change by less than 0.5 %.
        memory_bytes: what may be stored while images are read; about 1 GiB is needed besides. A set's deviation is
            known at its end, so what could not be stored is drawn again from images that are read again.
        names: what errors call the sides.
        advance: called with numbers of images done, that add up to `images_read`.

    Returns:
        The distance by resolution of the level: R, R/2, ..., 16.

    Raises:
        FormatError: fewer images than `count`, others than expected or than before, or images without any texture.
        RecipeError: a resolution, count or seed that makes no sense.
    """
    if seed < 0:
        raise RecipeError(f"the seed of the SWD is {seed}; expected 0 or more")
    dtype = torch.float16 if float16 else torch.float32
    once = passes(resolution, count, float16=float16, memory_bytes=memory_bytes) == 1
    clouds: list[DescriptorSet] = []
    for number, images in enumerate((a, b)):
        sampler = DescriptorSampler(
            resolution, {level: (seed, number, level) for level in laplacian_levels(resolution)}, device
        )
        channels = clouds[0].channels if clouds else None
        step = advance or (lambda _: None)
        clouds.append(DescriptorSet(images, names[number], count, sampler, dtype if once else None, channels, step))
    return dict(_stored(clouds, resolution, seed, device) if once else _read_again(clouds, resolution, seed, device))


def _stored(
    clouds: list[DescriptorSet], resolution: int, seed: int, device: torch.device
) -> Iterator[tuple[int, float]]:
    for index, level in enumerate(laplacian_levels(resolution)):
        gap = _gap(clouds, index, (seed, DIRECTIONS_STREAM, level), device)
        for side, cloud in enumerate(clouds):
            for descriptors in cloud.stored(index):
                gap.add(side, descriptors)
        yield level, 1000 * gap.distance()


def _read_again(
    clouds: list[DescriptorSet], resolution: int, seed: int, device: torch.device
) -> Iterator[tuple[int, float]]:
    resolutions = laplacian_levels(resolution)
    gaps = [_gap(clouds, i, (seed, DIRECTIONS_STREAM, level), device) for i, level in enumerate(resolutions)]
    for side, cloud in enumerate(clouds):
        for block in cloud.read_again():
            for gap, descriptors in zip(gaps, block, strict=True):
                gap.add(side, descriptors)
    for level, gap in zip(resolutions, gaps, strict=True):
        yield level, 1000 * gap.distance()


def _gap(
    clouds: list[DescriptorSet], index: int, stream: tuple[int, ...], device: torch.device
) -> StreamingSlicedWasserstein:
    first, second = (cloud.moments(index) for cloud in clouds)
    directions = random_directions(len(first[0]), np.random.default_rng(stream))
    return StreamingSlicedWasserstein(directions, (first, second), device)


def passes(resolution: int, count: int, *, float16: bool = False, memory_bytes: int = MEMORY_BYTES) -> int:
    """Return how often `swd` reads all images: once if what it draws from them can be stored, else twice.

    Raises:
        RecipeError: a resolution or count that makes no sense.
    """
    if resolution < COARSEST_PX or resolution & (resolution - 1):
        raise RecipeError(f"images of {resolution} px have no SWD; expected a power of two, at least {COARSEST_PX}")
    if count < 1:
        raise RecipeError(f"{count} images have no SWD; expected at least 1, the paper takes 16384")
    values = 2 * count * 3 * sum(stored_values_per_channel(level) for level in laplacian_levels(resolution))
    return 1 if values * (2 if float16 else 4) <= memory_bytes else 2


def images_read(resolution: int, count: int, *, float16: bool = False, memory_bytes: int = MEMORY_BYTES) -> int:
    """Return how many images `swd` reads in all, of both sides and over all passes."""
    return 2 * count * passes(resolution, count, float16=float16, memory_bytes=memory_bytes)
