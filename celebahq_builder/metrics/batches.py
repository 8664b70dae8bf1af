"""Batches of images for metrics, and arithmetic in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.parallel import run_threads

Batches = Callable[[], Iterator[Tensor]]
"""Each call yields the same images in the same order: uint8 [n, C, R, R], with any n in each batch."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def array_batches(images: NDArray[np.generic] | Tensor, at_once: int = 64) -> Batches:
    """Return the images of an array, in memory or memory-mapped, in the form that the metrics take.

    Args:
        images: [N, C, R, R], uint8, or float in [0, 255].
        at_once: images of a batch; it affects no result.

    Examples:
        >>> batches = array_batches(np.zeros((7, 3, 16, 16), np.uint8), at_once=3)
        >>> [len(batch) for batch in batches()]
        [3, 3, 1]
    """
    return lambda: (torch.as_tensor(images[start : start + at_once]) for start in range(0, len(images), at_once))


def take_images(
    images: Batches, count: int, *, name: str, resolution: int | None = None, channels: int | None = None
) -> Iterator[Tensor]:
    """Check and yield the first images of a set.

    Args:
        images: uint8 [n, C, R, R], or float in [0, 255].
        count: number of images; the last batch is cut.
        name: of the set, in error messages.
        resolution: R in px that is expected; None accepts any, the same for all images.
        channels: C that is expected; None accepts 3 (colour) or 1 (grey), the same for all images.

    Yields:
        Batches [n, C, R, R], of unchanged type and device.

    Raises:
        FormatError: there are fewer images than `count`, or an image has another shape or type or is not finite.
    """
    found = 0
    batches = images()
    try:
        for batch in batches:
            _check_shape(batch, f"{name}, image {found}", resolution, channels)
            channels, resolution = batch.shape[1:3]
            batch = batch[: count - found]
            _check_values(batch, f"{name}, images {found} to {found + len(batch) - 1}")
            found += len(batch)
            if len(batch):
                yield batch
            if found == count:
                return
    finally:
        if close := getattr(batches, "close", None):
            close()  # ends a reader's threads now, not when it is garbage-collected
    raise FormatError(
        f"{name} has {found:,} images, {count:,} were asked for; give a larger set or ask for at most {found:,}"
    )


def _check_shape(batch: Tensor, where: str, resolution: int | None, channels: int | None) -> None:
    expected = f"[n, {channels or '1 or 3'}, {resolution or 'R'}, {resolution or 'R'}]"
    square = batch.ndim == 4 and batch.shape[2] == batch.shape[3] == (resolution or batch.shape[3])
    if not square or batch.shape[1] not in ((channels,) if channels else (1, 3)):
        raise FormatError(
            f"{where}: a batch of shape {list(batch.shape)}, expected {expected}; all images must have one shape"
        )


def _check_values(batch: Tensor, where: str) -> None:
    if batch.dtype == torch.uint8 or not len(batch):
        return
    if not batch.is_floating_point():
        raise FormatError(f"{where} are {batch.dtype}; expected uint8, or floats in [0, 255]")
    low, high = (float(limit) for limit in batch.aminmax())  # NaN if any value is
    if not (low >= 0 and high <= 255):
        found = f"values from {low:g} to {high:g}" if low <= high else "NaN values"
        raise FormatError(f"{where} have {found}; expected [0, 255]; check the range and the generator's weights")


def map_in_threads(function: Callable[[Job], Result], jobs: Iterable[Job], device: torch.device) -> Iterator[Result]:
    """Yield the results of a function for some jobs, in their order.

    On a CPU as many jobs run at a time as torch has threads, each on one thread, because the way in which torch splits
    a sum over threads determines its last bits. On other devices the jobs run one after another.

    Args:
        function: of a job; its result must not depend on the order of jobs.
        jobs: computed without torch, which has one thread until the last job is done.
    """
    if device.type != "cpu":
        yield from map(function, jobs)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from run_threads(function, jobs, workers=threads)
    finally:
        torch.set_num_threads(threads)
