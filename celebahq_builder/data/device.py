"""Minibatches on their way to the device: uint8 until there, then real numbers as networks take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    """Pictures of a minibatch."""

    pixels: Tensor
    """uint8 [n, C, R, R], mirrored where they were drawn so."""
    labels: Tensor | None
    """float32 [n, classes], or None where the data set was opened without."""
    numbers: Tensor
    """int64 [n], of the pictures in their file."""
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


def faded(pictures: Tensor, alpha: float) -> Tensor:
    """Mix pictures with their level below, as generated ones are mixed while a resolution fades in.

    The level below is the mean of 2x2 pixels, each repeated 2x2 times (Karras et al. 2018, section 2 and figure 2).

    Args:
        pictures: float [n, C, R, R].
        alpha: 0 for the level below alone, 1 for the pictures themselves.

    Raises:
        ValueError: `alpha` is not in [0, 1], or the pictures are of one pixel, which has no level below.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha} must be in [0, 1]")
    if alpha == 1:
        return pictures
    if pictures.shape[-1] < 2:
        raise ValueError("pictures of 1x1 have no level below to fade in from; give alpha = 1")
    below = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="nearest")
    return torch.lerp(below, pictures, alpha)
