"""The images of one level as a dataset, and minibatches on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from celebahq_builder.data.sampler import Draws
from celebahq_builder.hdf5.chunks import Indices, LevelReader
from celebahq_builder.hdf5.labels import Source, labels_for_training
from celebahq_builder.imaging.pyramid import Pixels


class Batch(NamedTuple):
    """Images of a minibatch."""

    pixels: Tensor
    """uint8 [n, C, R, R], mirrored where they were drawn so."""
    labels: Tensor | None
    """float32 [n, classes], or None where the data set was opened without."""
    numbers: Tensor
    """int64 [n], of the images in their file."""
    alpha: float | None = None
    """The data set's fixed fade-in; None where it has none."""

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU fetches it without waiting."""
        labels = self.labels if self.labels is None else self.labels.pin_memory()
        return self._replace(pixels=self.pixels.pin_memory(), labels=labels)


def to_device(batch: Batch, device: torch.device | str, alpha: float | None = None) -> tuple[Tensor, Tensor | None]:
    """Return a minibatch as a discriminator sees it: reals float32 [n, C, R, R] in [-1, 1], and their labels.

    Args:
        batch: from a loader.
        device: where to compute; only uint8 travels there.
        alpha: share of this resolution's detail, in [0, 1], as `faded` takes it; None for the data set's own, or 1.

    Raises:
        ValueError: `alpha` is out of range.
    """
    pixels = batch.pixels.to(device, non_blocking=True)
    labels = batch.labels if batch.labels is None else batch.labels.to(device, non_blocking=True)
    share = batch.alpha if alpha is None else alpha
    reals = pixels.to(torch.float32)
    if share is not None:
        reals = faded(reals, share)
    return reals / 127.5 - 1, labels


def faded(images: Tensor, alpha: float) -> Tensor:
    """Mix images with their level below, as generated ones are mixed while a resolution fades in.

    The level below is the mean of 2x2 pixels, each repeated 2x2 times (Karras et al. 2018, section 2 and figure 2).

    Args:
        images: float [n, C, R, R].
        alpha: 0 for the level below alone, 1 for the images themselves.

    Raises:
        ValueError: `alpha` is not in [0, 1], or the images are of one pixel, which has no level below.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha} must be in [0, 1]")
    if alpha == 1:
        return images
    if images.shape[-1] < 2:
        raise ValueError("images of 1x1 have no level below to fade in from; give alpha = 1")
    below = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="nearest")
    return torch.lerp(below, images, alpha)


MEMORY_BYTES = 2 * 2**30
"""Of the levels of 30,000 images, those up to 128x128 fit: 1.5 GB, and 2.0 GB with all below it."""


class PyramidDataset(Dataset[Any]):
    """Images of one resolution, uint8 [C, R, R]; with labels, pairs of them and float32 [classes].

    The level is kept in memory, decompressed, if it fits `memory_bytes`: all of it is read when the first image is
    asked for, or by `load`. Each process that reads has its own copy, but for the workers of a data loader: those
    that are forked share what was loaded before, all others read the file, so the budget is per training process.
    Larger levels are read from the file, which may be used before and after forks, and through pickle.

    Args:
        path: of a file of this project, or of the ProGAN authors' tool.
        resolution: R; None for the largest level.
        alpha: fade-in that all images get on the device, see `to_device`; None if that depends on the time.
        mirror: whether images are flipped left to right at random, half of them: as `Order` says where `loader`
            draws them, by torch's random generator where the data set is indexed.
        labels: ``file`` for ``<stem>-labels.npy``, ``attributes`` for those of the HDF5 file.
        memory_bytes: budget for keeping the level; 0 to read every image from the file.
        threads: that decompress; None for one per core; workers of a data loader take one each.

    Raises:
        FormatError: no such file, level or labels, or they cannot be read.
        ValueError: `alpha` is out of range.
    """

    def __init__(
        self,
        path: Path | str,
        resolution: int | None = None,
        alpha: float | None = None,
        mirror: bool = False,
        *,
        labels: Source | None = None,
        memory_bytes: int = MEMORY_BYTES,
        threads: int | None = None,
    ) -> None:
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha = {alpha} must be in [0, 1]")
        self.level = LevelReader(Path(path), resolution, threads)
        self.resolution, self.alpha, self.mirror = self.level.resolution, alpha, mirror
        found, names = labels_for_training(Path(path), labels, len(self)) if labels else (None, ())
        self.labels = found
        """float32 [N, classes], or None."""
        self.label_names = names
        """One for each class, where the file names them."""
        self.kept = self.level.nbytes <= memory_bytes
        """Whether the level is kept in memory."""
        self._pixels: Pixels | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.level)

    def load(self) -> None:
        """Read the level into memory now, if it is to be kept there."""
        if self.kept and self._pixels is None:
            self._pixels = self.level.read(np.arange(len(self)))

    def read(self, numbers: Indices) -> Pixels:
        """Return images by their numbers, as stored: uint8 [n, C, R, R].

        Raises:
            FormatError: the file was replaced, altered or damaged.
            IndexError: there is no image of that number.
        """
        works_for_loader = get_worker_info() is not None
        if not works_for_loader:
            self.load()
        if self._pixels is None:
            return self.level.read(numbers, parallel=not works_for_loader)
        wanted = np.asarray(numbers, np.int64)
        if wanted.min(initial=0) < 0:  # numpy counts them from the end
            raise IndexError(f"{self.level.path} has images 0 to {len(self) - 1}, not {wanted.min()}")
        return np.take(self._pixels, wanted, axis=0)

    def batch(self, draws: Draws) -> Batch:
        """Return the images that an order draws, mirrored as it says if they are to be."""
        pixels = self.read(draws.numbers)
        if self.mirror:
            flip(pixels, draws.mirrored)
        labels = None if self.labels is None else torch.from_numpy(self.labels[draws.numbers])
        return Batch(torch.from_numpy(pixels), labels, torch.from_numpy(draws.numbers), self.alpha)

    def __getitem__(self, number: int) -> Any:
        """Return one image, and its labels if there are any."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return several images, read together: what torch's data loader asks for."""
        wanted = np.array([range(len(self))[number] for number in numbers], np.int64)
        mirrored = torch.rand(len(wanted)).lt(0.5).numpy() if self.mirror else np.zeros(len(wanted), bool)
        batch = self.batch(Draws(wanted, mirrored))
        return list(batch.pixels) if batch.labels is None else list(zip(batch.pixels, batch.labels, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}


def flip(pixels: Pixels, which: np.ndarray) -> None:
    """Flip some images, of uint8 [n, C, R, R], left to right, in place."""
    if which.any():
        chosen = pixels[which]
        pixels[which] = cv2.flip(chosen.reshape(-1, chosen.shape[-1]), 1).reshape(chosen.shape)
