"""Minibatches in the order drawn, read ahead by threads or by processes."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from celebahq_builder.data.dataset import Batch, PyramidDataset
from celebahq_builder.data.sampler import Draws, Order
from celebahq_builder.errors import FormatError, TrainingError


def loader(
    dataset: PyramidDataset,
    batch: int,
    order: Order | None = None,
    *,
    images: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    ahead: int = 2,
    context: str | None = None,
    pin: bool = False,
) -> Generator[Batch, None, None]:
    """Return minibatches, from the order's position on.

    The position moves on as minibatches are handed out, not as they are read: a checkpoint that holds
    ``order.state_dict()`` goes on with the very next image, whatever was read ahead. To change the size of the
    minibatches, or the resolution, call again with the same order.

    The minibatches of `world` processes that share an order's seed and position are, put together, those of a single
    process: rank r gets the images r, r + world, ... of each. So every image comes once an epoch, and no rank ever
    has more than another; what is left of an epoch begins the next one's first minibatch.

    Args:
        dataset: with as many images as the order counts.
        batch: size of a minibatch, of all processes together.
        order: in which images are drawn; None for a new one with seed 0.
        images: end after so many, of all processes together, with a smaller minibatch if need be; None: never end.
        rank: number of this process among those that train together.
        world: how many they are.
        workers: processes that read; 0 for threads of this one, which do as well. A level that is kept in memory
            takes neither.
        ahead: minibatches read ahead; per worker, if there are any.
        context: how workers are started: ``fork``, ``spawn``, ``forkserver``; None for Python's default.
        pin: put minibatches into page-locked memory, for a GPU.

    Raises:
        TrainingError: sizes that processes cannot share equally, an order of another number of images; later, an
            order that someone else moved meanwhile, a worker that was killed.
        FormatError: later, where the file turns out to be damaged.
    """
    order = order or Order(len(dataset))
    if order.count != len(dataset):
        raise TrainingError(
            f"the order is of {order.count} images, {dataset.level.path} has {len(dataset)}; make it of as many"
        )
    if not 0 <= rank < world:
        raise TrainingError(f"process {rank} of {world} does not exist; expected 0 to {world - 1}")
    for what, number in (("minibatch", batch), ("run", world if images is None else images)):
        if number < 1 or number % world:
            raise TrainingError(
                f"a {what} of {number} images cannot be shared equally by {world} processes; "
                f"make it a multiple of {world}"
            )
    draws = (order.draws(*step).share(rank, world) for step in _steps(order.drawn, batch, images))
    if dataset.kept:
        batches = _at_once(dataset, draws, pin)
    elif workers:
        batches = _by_processes(dataset, draws, workers, ahead, context, pin)
    else:
        batches = _by_threads(dataset, draws, ahead, pin)
    return _handed_out(dataset, order, order.drawn, world, batches)


def _steps(start: int, batch: int, images: int | None) -> Iterator[tuple[int, int]]:
    """Yield where each minibatch starts, in images drawn since the first epoch, and its size."""
    end = None if images is None else start + images
    while end is None or start < end:
        size = batch if end is None else min(batch, end - start)
        yield start, size
        start += size


def _handed_out(
    dataset: PyramidDataset, order: Order, position: int, world: int, batches: Iterator[Batch]
) -> Generator[Batch, None, None]:
    try:
        for batch in batches:
            if order.drawn != position:
                raise TrainingError(
                    f"the order was moved from image {position} to {order.drawn} while a loader was drawing from it; "
                    "close the loader first, then make another"
                )
            order.drawn = position = position + len(batch.numbers) * world
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:  # each is seen when a worker dies, as it happens to be
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        line = str(error).splitlines()[0] if str(error) else "it closed its connection"
        raise TrainingError(
            f"a process that reads {dataset.level.path} ended: {line}; "
            "where memory, or what processes may share of it, is scarce, read in threads: 0 workers"
        ) from None


def _at_once(dataset: PyramidDataset, draws: Iterator[Draws], pin: bool) -> Iterator[Batch]:
    for one in draws:
        yield _read(dataset, one, pin)


def _by_threads(dataset: PyramidDataset, draws: Iterator[Draws], ahead: int, pin: bool) -> Iterator[Batch]:
    with ThreadPoolExecutor(ahead, "minibatches") as pool:
        waiting = deque(pool.submit(_read, dataset, one, pin) for one in islice(draws, ahead))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(_read, dataset, one, pin) for one in islice(draws, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(dataset: PyramidDataset, draws: Draws, pin: bool) -> Batch:
    batch = dataset.batch(draws)
    return batch.pinned() if pin else batch


class _Worker(Dataset[Batch | FormatError]):
    """A data set of minibatches; an error is handed on as it is, torch would put a traceback into its message."""

    def __init__(self, dataset: PyramidDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draws: Draws) -> Batch | FormatError:
        try:
            return self.dataset.batch(draws)
        except FormatError as error:
            return error


def _by_processes(
    dataset: PyramidDataset, draws: Iterator[Draws], workers: int, ahead: int, context: str | None, pin: bool
) -> Iterator[Batch]:
    batches: DataLoader[Batch | FormatError] = DataLoader(
        _Worker(dataset),
        sampler=draws,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=ahead,
        multiprocessing_context=context,
        pin_memory=pin,
        generator=torch.Generator(),  # or the workers' seed would be drawn from the training's
        worker_init_fn=_spared,
    )
    for batch in batches:
        if isinstance(batch, FormatError):
            raise batch
        yield batch


def _spared(_: int) -> None:
    """Leave SIGTERM to the process that trains: told to end as all are, it needs its minibatch for a last step.

    A worker ends when that process does, or tells it to.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    return batch
