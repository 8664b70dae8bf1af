"""Batches of images for metrics, and arithmetic in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from celebahq_builder.errors import FormatError
from celebahq_builder.parallel import run_threads

Batches = Callable[[], Iterator[Tensor]]
"""Each call yields the same images again in the same order: uint8 [n, C, R, R], any n in each batch."""


def array_batches(images: NDArray[Any] | Tensor, at_once: int = 64) -> Batches:
    """Return images that are held in memory, or memory-mapped, as the metrics read them.

    Args:
        images: [N, C, R, R], uint8, or float in [0, 255].
        at_once: of each batch; decides no number.
    """
    return lambda: (torch.as_tensor(images[start : start + at_once]) for start in range(0, len(images), at_once))


def take_images(
    images: Batches, count: int, *, name: str, resolution: int | None = None, channels: int | None = None
) -> Iterator[Tensor]:
    """Yield the first images of a set, checked.

    Args:
        images: uint8, or float in [0, 255].
        count: how many; the last batch is cut.
        name: what an error calls the set.
        resolution: of the images, in pixels; None for any, all alike.
        channels: 3 of colour or 1 of grey; None for either, all alike.

    Yields:
        [n, C, R, R], of the batches' types and on their devices.

    Raises:
        FormatError: fewer images than `count`, or of another shape or type, or not finite.
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
            close()  # a reader's threads end here, not when the memory is tidied up
    raise FormatError(
        f"{name} has {found:,} images, {count:,} were asked for; give a larger set or ask for at most {found:,}"
    )


def _check_shape(batch: Tensor, where: str, resolution: int | None, channels: int | None) -> None:
    wanted = f"[n, {channels or '1 or 3'}, {resolution or 'R'}, {resolution or 'R'}]"
    square = batch.ndim == 4 and batch.shape[2] == batch.shape[3] == (resolution or batch.shape[3])
    if not square or batch.shape[1] not in ((channels,) if channels else (1, 3)):
        raise FormatError(f"{where}: a batch of shape {list(batch.shape)}, expected {wanted}; all images are alike")


def _check_values(batch: Tensor, where: str) -> None:
    if batch.dtype == torch.uint8 or not len(batch):
        return
    if not batch.is_floating_point():
        raise FormatError(f"{where} are {batch.dtype}; expected uint8, or floats in [0, 255]")
    low, high = (float(limit) for limit in batch.aminmax())  # not a number, if any value is
    if not (low >= 0 and high <= 255):
        found = f"values from {low:g} to {high:g}" if low <= high else "values that are not numbers"
        raise FormatError(f"{where} have {found}; expected [0, 255]: was the range converted, is the generator sound?")


Job = TypeVar("Job")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Job], Result], jobs: Iterable[Job], device: torch.device) -> Iterator[Result]:
    """Yield the results of a function for some jobs, in their order.

    On a CPU as many threads are at work as torch has, and each job has one: how torch splits a sum over several
    decides its last bits. Elsewhere the jobs come one after the other.

    Args:
        function: of a job; must not depend on the order of jobs.
        jobs: none of which is found out by a calculation of torch's: until the last is done, torch has one thread.
        device: that the function computes on.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    if workers == 1:
        yield from map(function, jobs)
        return
    torch.set_num_threads(1)
    try:
        yield from run_threads(function, jobs, workers=workers)
    finally:
        torch.set_num_threads(workers)
