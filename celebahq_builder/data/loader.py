"""Minibatches in the order drawn, read ahead by threads or processes."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from celebahq_builder.data.dataset import Batch, PyramidDataset
from celebahq_builder.data.sampler import Draws, Order
from celebahq_builder.errors import FormatError, TrainingError
from celebahq_builder.parallel import run_threads


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

    The order's position counts the images that were handed out, not those read ahead: a checkpoint that holds
    ``order.state_dict()`` resumes with the very next image. To change the size of the minibatches, or the resolution,
    call again with the same order.

    `world` processes with the same seed and position share a minibatch: rank r gets its images r, r + world, ...; put
    together, they are the minibatch of a single process. So every image comes once per epoch, and all ranks have the
    same number. The last images of an epoch are in one minibatch with the first of the next.

    Args:
        dataset: data set with as many images as the order counts.
        batch: size of a minibatch, of all processes together.
        order: order in which images are drawn; None for a new one with seed 0.
        images: stop after so many images, of all processes together, with a smaller last minibatch if need be; None
            to never stop.
        rank: number of this process, 0 to `world` - 1.
        world: number of processes that train together.
        workers: processes that read; 0 for threads of this process, which are as fast. A level that is kept in memory
            needs neither.
        ahead: minibatches read ahead; per worker, if there are any.
        context: start method of the workers: ``fork``, ``spawn``, ``forkserver``; None for Python's default.
        pin: put minibatches into page-locked memory, for a GPU.

    Raises:
        TrainingError: sizes that the processes cannot share equally, or an order of another number of images. While
            reading: the order's position was changed from outside, or a worker was killed.
        FormatError: while reading: the file is damaged, or was replaced.

    Example:
        >>> import h5py, tempfile
        >>> import numpy as np
        >>> path = f"{tempfile.mkdtemp()}/faces.h5"
        >>> with h5py.File(path, "w") as file:
        ...     file["data2x2"] = np.arange(36, dtype=np.uint8).reshape(3, 3, 2, 2)
        >>> dataset = PyramidDataset(path, resolution=2)
        >>> for minibatch in loader(dataset, 2, Order(3, seed=0), images=6):
        ...     print(minibatch.numbers.tolist(), minibatch.pixels.dtype, minibatch.pixels.shape)
        [2, 0] torch.uint8 torch.Size([2, 3, 2, 2])
        [1, 2] torch.uint8 torch.Size([2, 3, 2, 2])
        [0, 1] torch.uint8 torch.Size([2, 3, 2, 2])
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
    draws = (whole.share(rank, world) for whole in order.minibatches(batch, images))
    if workers and not dataset.kept:
        batches = _read_by_processes(dataset, draws, workers, ahead, context, pin)
    else:

        def read(draws: Draws) -> Batch:
            return dataset.batch(draws).pinned() if pin else dataset.batch(draws)

        batches = run_threads(read, draws, workers=max(ahead, 1), ahead=0 if dataset.kept else ahead)
    return _advance(dataset, order, order.drawn, world, batches)


def _advance(
    dataset: PyramidDataset, order: Order, position: int, world: int, batches: Iterator[Batch]
) -> Generator[Batch, None, None]:
    """Yield minibatches, and advance the order by each."""
    try:
        for batch in batches:
            if order.drawn != position:
                raise TrainingError(
                    f"the order was moved from image {position} to {order.drawn} while a loader was drawing from it; "
                    "close the loader first, then make another"
                )
            order.drawn = position = position + len(batch.numbers) * world
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:  # which one a dead worker causes depends on the moment
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        line = str(error).splitlines()[0] if str(error) else "it closed its connection"
        raise TrainingError(
            f"a process that reads {dataset.level.path} ended: {line}; "
            "if memory or shared memory is scarce, read in threads: 0 workers"
        ) from None


@dataclass
class _Minibatches(Dataset[Batch | FormatError]):
    """Minibatches by their draws; an error is returned, because torch would put a traceback into its message."""

    dataset: PyramidDataset

    def __getitem__(self, draws: Draws) -> Batch | FormatError:
        try:
            return self.dataset.batch(draws)
        except FormatError as error:
            return error


def _read_by_processes(
    dataset: PyramidDataset, draws: Iterator[Draws], workers: int, ahead: int, context: str | None, pin: bool
) -> Iterator[Batch]:
    batches: DataLoader[Batch | FormatError] = DataLoader(
        _Minibatches(dataset),
        sampler=draws,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead,
        multiprocessing_context=context,
        pin_memory=pin,
        generator=torch.Generator(),  # or the workers' seed would be drawn from the training's generator
        worker_init_fn=_ignore_sigterm,
    )
    for batch in batches:
        if isinstance(batch, FormatError):
            raise batch
        yield batch


def _ignore_sigterm(_: int) -> None:
    """Ignore SIGTERM, which a cluster sends to all processes of a job.

    The training process still needs a minibatch for its last step. The worker ends when that process ends or stops it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
