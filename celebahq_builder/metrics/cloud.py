"""The points that a set of pictures is to the sliced Wasserstein distance: its descriptors at all levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.metrics.batches import Batches, take
from celebahq_builder.metrics.descriptors import PATCH_PX, PATCHES, cut, draw_places
from celebahq_builder.metrics.sampling import BLOCK, LevelSample, Sampler, levels

FLAT = 1e-3
"""A standard deviation, in grey levels, that is none: nothing but rounding would be magnified."""

CHANGED = 1e-3
"""Relative difference of the finest level's variance between two readings that no rounding on a GPU explains."""

VALUES = PATCHES * PATCH_PX**2
"""Of each channel of a picture's descriptors at one level."""


class Cloud:
    """Descriptors of the first pictures of a set, read once to know their deviation, and stored or read once more.

    Args:
        pictures: the set.
        name: what errors call it.
        count: pictures that are used.
        sampler: draws the descriptors.
        dtype: float32 or float16 to store what is drawn; None to read again.
        channels: that the pictures must have, or None.
        advance: called with the number of pictures done, in each pass.

    Raises:
        FormatError: fewer pictures than `count`, or others than expected.
    """

    def __init__(
        self,
        pictures: Batches,
        name: str,
        count: int,
        sampler: Sampler,
        dtype: torch.dtype | None,
        channels: int | None,
        advance: Callable[[int], None],
    ) -> None:
        self._pictures, self._name, self._count = pictures, name, count
        self._sampler, self._advance = sampler, advance
        self._levels = levels(sampler.resolution)
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
                f"{self._name}: the {self._count:,} pictures have no texture at level {self._levels[index]}, channel "
                f"{int(deviation.argmin())}: all neighbourhoods are flat; the SWD is undefined, is the generator sound?"
            )
        return mean.repeat(PATCH_PX**2), deviation.repeat(PATCH_PX**2)

    def stored(self, index: int) -> Iterator[Tensor]:
        """Yield the stored descriptors of a level, float32 [n * PATCHES, 49 C], a block of pictures at a time."""
        level, store = self._levels[index], self._stores[index]
        for start, values in store.blocks():
            if store.whole:
                yield cut(values, draw_places(self._sampler.streams[level], level, start, start + len(values)))
            else:
                yield values

    def read_again(self) -> Iterator[list[Tensor]]:
        """Yield the descriptors of all levels in the same blocks, drawn again.

        Raises:
            FormatError: at the end, if the pictures were others than before.
        """
        now = torch.zeros(self._sums.shape[-1], dtype=torch.float64)
        waiting: list[list[Tensor]] = []  # without the pixels, which are many times as large
        for start, samples in self._read():
            if waiting and start % BLOCK == 0:
                yield [torch.cat(level) for level in zip(*waiting, strict=True)]
                waiting = []
            waiting.append([sample.descriptors for sample in samples])
            now += samples[0].sums[:, 1].sum(dim=0).cpu()
        yield [torch.cat(level) for level in zip(*waiting, strict=True)]
        if not torch.allclose(self._sums[0, 1], now, rtol=CHANGED):
            raise FormatError(
                f"{self._name} gave other pictures when it was read again; make it repeat itself (a fixed seed, no "
                "shuffling), or allow enough memory to read it once"
            )

    def _read(self) -> Iterator[tuple[int, list[LevelSample]]]:
        resolution = self._sampler.resolution
        batches = take(self._pictures, self._count, name=self._name, resolution=resolution, channels=self.channels)
        for start, samples in self._sampler.samples(batches):
            yield start, samples
            self._advance(len(samples[0].sums))


class LevelStore:
    """The descriptors of one level, or its pixels where they are fewer: those can be cut again.

    Args:
        sample: of the first pictures; tells what will come.
        count: pictures.
        dtype: float32 or float16.
    """

    def __init__(self, sample: LevelSample, count: int, dtype: torch.dtype) -> None:
        descriptors = sample.descriptors.view(len(sample.pixels), -1)
        self.whole = sample.pixels[0].numel() < descriptors.shape[1]
        shape = sample.pixels.shape[1:] if self.whole else (PATCHES, sample.descriptors.shape[1])
        self._values = torch.empty((count, *shape), dtype=dtype, device=sample.pixels.device)

    def put(self, start: int, sample: LevelSample) -> None:
        """Store what the pictures from number `start` on gave."""
        part = self._values[start : start + len(sample.pixels)]
        part.copy_((sample.pixels if self.whole else sample.descriptors).view(part.shape))

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of a picture and what is stored of it and those after it: pixels, or descriptors as rows."""
        for start in range(0, len(self._values), BLOCK):
            values = self._values[start : start + BLOCK].float()
            yield start, values if self.whole else values.flatten(0, 1)
