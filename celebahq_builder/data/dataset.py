"""Images of one level as a torch data set, and the step from a minibatch to the discriminator's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from celebahq_builder.hdf5.chunks import Indices, LevelReader
from celebahq_builder.hdf5.labels import LabelSource, labels_for_training
from celebahq_builder.image_set import Labels, Pixels

MEMORY_BYTES = 2 * 2**30
"""Default budget for a level in memory; of 30,000 images, the 128x128 level takes 1.5 GB."""


class Batch(NamedTuple):
    """Images of a minibatch."""

    pixels: Tensor
    """uint8 [n, C, R, R]; some are mirrored, as drawn by the order."""
    labels: Tensor | None
    """float32 [n, classes]; None if the data set was opened without labels."""
    numbers: Tensor
    """int64 [n], indices of the images in their file."""
    alpha: float | None = None
    """Fixed fade-in of the data set, in [0, 1]; None without."""

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, which a GPU reads without waiting."""
        labels = self.labels if self.labels is None else self.labels.pin_memory()
        return self._replace(pixels=self.pixels.pin_memory(), labels=labels)


class PyramidDataset(Dataset[Any]):
    """Images of one resolution, uint8 [C, R, R]; with labels, pairs of an image and float32 [classes].

    A level that fits `memory_bytes` is kept in memory, decompressed: it is read when the first image is asked for, or
    by `load`. Each process has its own copy, but for the workers of a data loader: they share what was loaded before
    they were forked, and otherwise read the file. Larger levels are read from the file. The data set may be forked
    and pickled.

    Args:
        path: HDF5 file of this project, or of the ProGAN authors' tool.
        resolution: R; None for the largest level.
        alpha: fade-in of all images on the device, in [0, 1], see `to_device`; None if it depends on the step.
        mirror: flip half of the images left to right, chosen at random: by the `Order` in `loader`, by torch's
            generator where the data set is indexed.
        labels: ``file`` for ``<stem>-labels.npy``, ``attributes`` for those in the HDF5 file; None for no labels.
        memory_bytes: budget for keeping the level in memory; 0 to read every image from the file.
        threads: threads that decompress; None for one per core. Workers of a data loader use one each.

    Attributes:
        level: reader of the level.
        resolution: R.
        labels: float32 [N, classes], or None.
        label_names: one name for each class, if the file has them, else empty.
        kept: True if the level is kept in memory.

    Raises:
        FormatError: no such file, level or labels, or they cannot be read.
        ValueError: `alpha` is not in [0, 1].

    Example:
        >>> import h5py, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "faces.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["data2x2"] = np.arange(36, dtype=np.uint8).reshape(3, 3, 2, 2)
        >>> dataset = PyramidDataset(path, resolution=2)
        >>> len(dataset), dataset[0].dtype, dataset[0].shape
        (3, torch.uint8, torch.Size([3, 2, 2]))
        >>> next(iter(torch.utils.data.DataLoader(dataset, batch_size=3))).shape
        torch.Size([3, 3, 2, 2])
    """

    def __init__(
        self,
        path: Path | str,
        resolution: int | None = None,
        alpha: float | None = None,
        mirror: bool = False,
        *,
        labels: LabelSource | None = None,
        memory_bytes: int = MEMORY_BYTES,
        threads: int | None = None,
    ) -> None:
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha = {alpha} must be in [0, 1]")
        self.level = LevelReader(path, resolution, threads)
        self.resolution, self.alpha, self.mirror = self.level.resolution, alpha, mirror
        self.labels: Labels | None = None
        self.label_names: tuple[str, ...] = ()
        if labels is not None:
            self.labels, self.label_names = labels_for_training(Path(path), labels, len(self))
        self.kept = self.level.nbytes <= memory_bytes
        self._pixels: Pixels | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.level)

    def load(self) -> None:
        """Read the level into memory now, if it is to be kept there."""
        if self.kept and self._pixels is None:
            self._pixels = self.level[:]

    def read(self, numbers: Indices) -> Pixels:
        """Return images by their indices, as stored: uint8 [n, C, R, R].

        Raises:
            FormatError: the file was replaced or changed, or is damaged.
            IndexError: no image has that index.
        """
        in_worker = get_worker_info() is not None
        if not in_worker:
            self.load()
        if self._pixels is None:
            return self.level.read(numbers, parallel=not in_worker)
        wanted = np.asarray(numbers, np.int64)
        if wanted.min(initial=0) < 0:  # numpy would count from the end
            raise IndexError(f"{self.level.path} has images 0 to {len(self) - 1}, not {wanted.min()}")
        return np.take(self._pixels, wanted, axis=0)

    def batch(self, numbers: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Batch:
        """Return images by their indices [n]; with `mirror`, those are flipped for which `mirrored` [n] is True."""
        pixels = self.read(numbers)
        if self.mirror and mirrored.any():
            rows = pixels[mirrored]
            pixels[mirrored] = cv2.flip(rows.reshape(-1, rows.shape[-1]), 1).reshape(rows.shape)
        labels = None if self.labels is None else torch.from_numpy(self.labels[numbers])
        return Batch(torch.from_numpy(pixels), labels, torch.from_numpy(numbers), self.alpha)

    def __getitem__(self, number: int) -> Any:
        """Return one image, or a pair of an image and its labels."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return several images that are read together, as torch's data loader asks for them."""
        wanted = np.array([range(len(self))[number] for number in numbers], np.int64)
        mirrored = torch.rand(len(wanted)).lt(0.5).numpy() if self.mirror else np.zeros(len(wanted), bool)
        batch = self.batch(wanted, mirrored)
        return list(batch.pixels) if batch.labels is None else list(zip(batch.pixels, batch.labels, strict=True))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pixels": None}


def to_device(batch: Batch, device: torch.device | str, alpha: float | None = None) -> tuple[Tensor, Tensor | None]:
    """Return a minibatch as the discriminator's input: float32 [n, C, R, R] in [-1, 1], and labels [n, classes].

    Args:
        batch: minibatch from `loader`.
        device: where to compute; only uint8 is transferred.
        alpha: fade-in, in [0, 1], see `fade_in`; None for the data set's own, or else 1.

    Raises:
        ValueError: `alpha` is not in [0, 1].

    Example:
        >>> batch = Batch(torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8), None, torch.tensor([0]))
        >>> to_device(batch, "cpu")[0].flatten().tolist(), to_device(batch, "cpu", alpha=0.5)[0].flatten().tolist()
        ([-1.0, 1.0, -1.0, 1.0], [-0.5, 0.5, -0.5, 0.5])
    """
    pixels = batch.pixels.to(device, non_blocking=True)
    labels = batch.labels if batch.labels is None else batch.labels.to(device, non_blocking=True)
    share = batch.alpha if alpha is None else alpha
    reals = pixels.to(torch.float32)
    if share is not None:
        reals = fade_in(reals, share)
    return reals / 127.5 - 1, labels


def fade_in(images: Tensor, alpha: float) -> Tensor:
    """Interpolate between the level below and the images, as the networks do while a resolution fades in.

    The level below is the mean of 2x2 pixels, each repeated 2x2 times (Karras et al. 2018, section 2 and figure 2).

    Args:
        images: float [n, C, R, R].
        alpha: 0 for the level below alone, 1 for the images themselves.

    Raises:
        ValueError: `alpha` is not in [0, 1]; or it is less than 1 for images of 1x1, which have no level below.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha} must be in [0, 1]")
    if alpha == 1:
        return images
    if images.shape[-1] < 2:
        raise ValueError("images of 1x1 have no level below to fade in from; give alpha = 1")
    below = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="nearest")
    return torch.lerp(below, images, alpha)
