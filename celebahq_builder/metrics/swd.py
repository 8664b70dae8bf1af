"""Sliced Wasserstein distance of two sets of images, SWD (Karras et al. 2018, section 5).

1. Each image becomes a Laplacian pyramid. From each level, 128 random 7x7 patches give descriptors of 147 values
   (`descriptors`).
2. At each level, the mean and standard deviation of each colour channel are removed, for each set separately.
3. The distance of both sets of descriptors at a level is their sliced Wasserstein distance (`sliced`).

Step 2 needs all images of a set before step 3 can begin. So the descriptors of the first pass are stored if they fit
into memory; otherwise all images are read a second time and the same descriptors are drawn again. Small levels are
stored as pixels, which are fewer values than their descriptors. Step 3 counts projections instead of sorting them, so
it needs one block of descriptors at a time. The result has the same bits in either case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from celebahq_builder.errors import FormatError, RecipeError
from celebahq_builder.imaging.pyramid import is_power_of_two
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
)
from celebahq_builder.metrics.sliced import StreamingSlicedWasserstein, random_directions

VALUES_PER_CHANNEL = PATCHES_PER_IMAGE * PATCH_PX**2
"""Values of the descriptors of one image, level and channel."""

DEVIATION_MIN = 1e-3
"""Smallest standard deviation, in grey levels, that is no rounding error."""

CHANGED_RTOL = 1e-3
"""Relative difference of the finest level's variance between two passes that rounding on a GPU cannot explain."""

MEMORY_BYTES = 8 << 30
"""Memory for stored descriptors, besides about 1 GiB. If it is too small, images are read twice."""

CPU = torch.device("cpu")

DIRECTIONS_STREAM = 2
"""Separates the draws of directions from those of the patches of sides 0 and 1."""


def swd(
    a: Batches,
    b: Batches,
    *,
    resolution: int,
    count: int,
    seed: int = 0,
    device: torch.device = CPU,
    names: tuple[str, str] = ("side a", "side b"),
    advance: Callable[[int], None] = lambda _: None,
) -> dict[int, float]:
    """Return the sliced Wasserstein distance of two sets of images at each pyramid level, times 1000.

    Patches are drawn independently for each image and side, as in the authors' code. So the distance of a set from
    itself is not 0 but as large as chance makes it. Neither batches nor threads nor the number of passes affect the
    result.

    Args:
        a: uint8 [n, C, R, R] batches, or float in [0, 255]; C is 3 or 1.
        b: likewise.
        resolution: R in px, a power of two, at least 16.
        count: images of each side that are used, from its first; the paper takes 16,384.
        seed: of patches and directions, at least 0.
        device: that computes and stores.
        names: of the sides, in error messages.
        advance: called with numbers of images done, which add up to `images_read`.

    Returns:
        The distance by resolution of the level: R, R/2, ..., 16.

    Raises:
        FormatError: there are fewer images than `count`; or images have another shape or type, differ between two
            passes, or have no texture at a level.
        RecipeError: `resolution`, `count` or `seed` is out of range.

    References:
        Karras et al. 2018, "Progressive Growing of GANs", section 5.

    Examples:
        >>> from celebahq_builder.metrics.batches import array_batches
        >>> a, b = np.random.default_rng(0).integers(0, 256, (2, 8, 3, 32, 32), dtype=np.uint8)
        >>> distances = swd(array_batches(a), array_batches(b // 2), resolution=32, count=8)
        >>> list(distances)
        [32, 16]
    """
    if seed < 0:
        raise RecipeError(f"the seed of the SWD is {seed}; expected 0 or more")
    store = passes(resolution, count) == 1
    levels = laplacian_levels(resolution)
    sets: list[DescriptorSet] = []
    for side, images in enumerate((a, b)):
        sampler = DescriptorSampler(resolution, {level: (seed, side, level) for level in levels}, device)
        channels = sets[0].channels if sets else None
        sets.append(DescriptorSet(images, names[side], count, sampler, store, channels, advance))

    def new_distance(index: int) -> StreamingSlicedWasserstein:
        first, second = (one_set.moments(index) for one_set in sets)
        rng = np.random.default_rng((seed, DIRECTIONS_STREAM, levels[index]))
        return StreamingSlicedWasserstein(random_directions(len(first[0]), rng), (first, second), device)

    if store:  # one level after another, so that one table of counts is in memory
        found = {}
        for index, level in enumerate(levels):
            distance = new_distance(index)
            for side, one_set in enumerate(sets):
                for descriptors in one_set.stored(index):
                    distance.add(side, descriptors)
            found[level] = 1000 * distance.compute()
        return found
    distances = [new_distance(index) for index in range(len(levels))]  # all levels, because each pass reads all images
    for side, one_set in enumerate(sets):
        for block in one_set.drawn_again():
            for distance, descriptors in zip(distances, block, strict=True):
                distance.add(side, descriptors)
    return {level: 1000 * distance.compute() for level, distance in zip(levels, distances, strict=True)}


def passes(resolution: int, count: int) -> int:
    """Return how often `swd` reads all images: once if their descriptors can be stored, otherwise twice.

    Raises:
        RecipeError: `resolution` or `count` is out of range.

    Examples:
        >>> passes(256, 16384), passes(1024, 16384)
        (1, 2)
    """
    if resolution < COARSEST_PX or not is_power_of_two(resolution):
        raise RecipeError(f"images of {resolution} px have no SWD; expected a power of two, at least {COARSEST_PX}")
    if count < 1:
        raise RecipeError(f"{count} images have no SWD; expected at least 1, the paper takes 16384")
    values = 2 * count * 3 * sum(min(level**2, VALUES_PER_CHANNEL) for level in laplacian_levels(resolution))
    return 1 if 4 * values <= MEMORY_BYTES else 2  # float32


def images_read(resolution: int, count: int) -> int:
    """Return the number of images that `swd` reads, of both sides and in all passes."""
    return 2 * count * passes(resolution, count)


class DescriptorSet:
    """Descriptors of the first images of a set: read once for their moments, and stored or drawn again.

    Args:
        name: of the set, in error messages.
        store: keep the descriptors; false to draw them again.
        channels: that the images must have; None accepts 1 or 3.
        advance: called with numbers of images done, in each pass.

    Raises:
        FormatError: there are fewer images than `count`, or they are not as expected.
    """

    def __init__(
        self,
        images: Batches,
        name: str,
        count: int,
        sampler: DescriptorSampler,
        store: bool,
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
                # One array: small ones that stay among large ones that go would fragment the memory.
                sums = torch.empty((len(self._levels), count, 2, self.channels), dtype=torch.float64)
                if store:
                    self._stores = [LevelStore(sample, count) for sample in samples]
            for index, sample in enumerate(samples):
                sums[index, start : start + len(sample.sums)] = sample.sums
                if store:
                    self._stores[index].put(start, sample)
        self._sums = sums.sum(dim=1)

    def moments(self, index: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each component of the descriptors at a level, float64 [49 C] each.

        Raises:
            FormatError: a channel is flat, so nothing remains to divide by.
        """
        mean, square = self._sums[index] / (self._count * VALUES_PER_CHANNEL)
        deviation = (square - mean.square()).clamp_(min=0).sqrt()
        if float(deviation.min()) < DEVIATION_MIN:
            raise FormatError(
                f"{self._name}: the {self._count:,} images have no texture at level {self._levels[index]}, channel "
                f"{int(deviation.argmin())}: all patches are flat and the SWD is undefined; check the images or the "
                "generator"
            )
        return mean.repeat(PATCH_PX**2), deviation.repeat(PATCH_PX**2)

    def stored(self, index: int) -> Iterator[Tensor]:
        """Yield the stored descriptors of a level, float32 [n * PATCHES_PER_IMAGE, 49 C], one block of images each."""
        level, store = self._levels[index], self._stores[index]
        for start, values in store.blocks():
            if store.as_pixels:
                positions = draw_positions(self._sampler.streams[level], level, start, start + len(values))
                yield extract_patches(values, positions)
            else:
                yield values

    def drawn_again(self) -> Iterator[list[Tensor]]:
        """Yield the descriptors of all levels, drawn again from the images, in the same blocks as `stored`.

        Raises:
            FormatError: at the end, if the images differ from those of the first pass.
        """
        squares = torch.zeros(self._sums.shape[-1], dtype=torch.float64)
        block: list[list[Tensor]] = []  # without the pixels, which are many times as large
        for start, samples in self._read():
            if block and start % BLOCK_IMAGES == 0:
                yield [torch.cat(level) for level in zip(*block, strict=True)]
                block = []
            block.append([sample.descriptors for sample in samples])
            squares += samples[0].sums[:, 1].sum(dim=0).cpu()
        yield [torch.cat(level) for level in zip(*block, strict=True)]
        if not torch.allclose(self._sums[0, 1], squares, rtol=CHANGED_RTOL):
            raise FormatError(
                f"{self._name} gave other images when it was read again; make it repeatable (a fixed seed, no "
                "shuffling), or allow enough memory to read it once"
            )

    def _read(self) -> Iterator[tuple[int, list[LevelDescriptors]]]:
        resolution = self._sampler.resolution
        batches = take_images(self._images, self._count, name=self._name, resolution=resolution, channels=self.channels)
        for start, samples in self._sampler.sample(batches):
            yield start, samples
            self._advance(len(samples[0].sums))


class LevelStore:
    """The descriptors of one level, or its pixels if they are fewer; patches can be cut from pixels again.

    Args:
        sample: of the first images; it determines the shapes.
    """

    def __init__(self, sample: LevelDescriptors, count: int) -> None:
        descriptors = sample.descriptors.view(len(sample.pixels), -1)
        self.as_pixels = sample.pixels[0].numel() < descriptors.shape[1]
        shape = sample.pixels.shape[1:] if self.as_pixels else (PATCHES_PER_IMAGE, sample.descriptors.shape[1])
        self._values = torch.empty((count, *shape), device=sample.pixels.device)

    def put(self, start: int, sample: LevelDescriptors) -> None:
        """Store the sample of the images that begin at number `start`."""
        part = self._values[start : start + len(sample.pixels)]
        part.copy_((sample.pixels if self.as_pixels else sample.descriptors).view(part.shape))

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of a block's first image and the block's values: pixels, or descriptors as rows."""
        for start in range(0, len(self._values), BLOCK_IMAGES):
            values = self._values[start : start + BLOCK_IMAGES]
            yield start, values if self.as_pixels else values.flatten(0, 1)
